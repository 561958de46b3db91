"""Configurations in the released format, taken apart and changed."""

import copy
import json

from proxyless_ext import zoo


def import_values(folder, config):
    """Import a configuration given as a dictionary, from a file in `folder`."""
    path = folder / "my_net.config"
    path.write_text(json.dumps(config))
    return zoo.import_config(path)


def leaves(value, path=()):
    """All paths to values that are neither dictionaries nor lists."""
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return [leaf for key, child in pairs for leaf in leaves(child, (*path, key))]
    return [path]


def value_at(config, path):
    """What stands at `path`."""
    for key in path:
        config = config[key]
    return config


def with_value(config, path, value):
    """A configuration with another value at `path`."""
    config = copy.deepcopy(config)
    value_at(config, path[:-1])[path[-1]] = value
    return config
