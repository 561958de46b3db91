from typing import TypedDict

class BuildInfo(TypedDict):
    version: str
    compiler: str
    cxx_standard: int
    build_type: str
    flags: str
    system: str
    architecture: str

__version__: str

def build_info() -> BuildInfo: ...
def supported_isas() -> list[str]: ...
def selected_isa() -> str: ...
