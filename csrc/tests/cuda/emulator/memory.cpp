#include "memory.h"

#include <link.h>
#include <sanitizer/asan_interface.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "access_checker.h"
#include "emulator.h"

#pragma weak __asan_poison_memory_region
#pragma weak __asan_unpoison_memory_region

namespace proxyless::cuda::emulator {

// A buffer's bytes lie between two red zones, in which nothing may be written.
struct Buffer::Memory {
  std::string name;
  Region region;
  std::unique_ptr<Cell[]> cells;
};

namespace {

constexpr unsigned char kFill = 0xff;
constexpr unsigned char kRedFill = 0xa5;
constexpr std::size_t kRedBytes = 4096;
constexpr std::align_val_t kAlignment{256};

std::vector<const Region*> buffers;  // by address

void forbid(const unsigned char* begin, std::size_t bytes) {
  if (__asan_poison_memory_region != nullptr) __asan_poison_memory_region(begin, bytes);
}
void allow(const unsigned char* begin, std::size_t bytes) {
  if (__asan_unpoison_memory_region != nullptr) __asan_unpoison_memory_region(begin, bytes);
}

std::unique_ptr<Cell[]> make_cells(std::size_t bytes) {
  if (!is_traced()) return nullptr;
  return std::make_unique<Cell[]>((bytes + kCellBytes - 1) / kCellBytes);
}

bool is_red(const unsigned char* begin) {
  return std::all_of(begin, begin + kRedBytes, [](unsigned char byte) { return byte == kRedFill; });
}

bool holds(const dl_phdr_info& image, const ElfW(Phdr) & segment, const void* address) {
  const auto begin = static_cast<std::uintptr_t>(image.dlpi_addr + segment.p_vaddr);
  return reinterpret_cast<std::uintptr_t>(address) - begin < segment.p_memsz;
}

// The thread-local memory of the image that the emulator is in.
Region find_shared_memory() {
  Region region{nullptr, 0, nullptr, true, "shared memory"};
  const auto look = [](dl_phdr_info* image, std::size_t, void* result) {
    const ElfW(Phdr)* const segments = image->dlpi_phdr;
    const ElfW(Phdr)* const end = segments + image->dlpi_phnum;
    const bool is_own = std::any_of(segments, end, [&](const ElfW(Phdr) & segment) {
      return segment.p_type == PT_LOAD && holds(*image, segment, &buffers);
    });
    if (!is_own) return 0;
    for (const ElfW(Phdr)* segment = segments; segment != end; ++segment) {
      if (segment->p_type != PT_TLS) continue;
      auto* const found = static_cast<Region*>(result);
      found->data = static_cast<unsigned char*>(image->dlpi_tls_data);
      found->bytes = segment->p_memsz;
    }
    return 1;
  };
  dl_iterate_phdr(look, &region);
  region.cells = make_cells(region.bytes).release();  // as long as the program runs
  return region;
}

}  // namespace

const Region& shared_memory() {
  static const Region region = find_shared_memory();
  return region;
}

const Region* region_at(const void* address) {
  if (shared_memory().contains(address, 1)) return &shared_memory();
  const auto after =
      std::upper_bound(buffers.begin(), buffers.end(), address, [](const void* a, const Region* b) {
        return static_cast<const unsigned char*>(a) < b->data - kRedBytes;
      });
  if (after == buffers.begin()) return nullptr;
  const Region& region = **(after - 1);
  return address < region.data + region.bytes + kRedBytes ? &region : nullptr;
}

bool is_constant(const void* address) {
  const auto look = [](dl_phdr_info* image, std::size_t, void* sought) {
    for (int i = 0; i < image->dlpi_phnum; ++i) {
      const ElfW(Phdr) & segment = image->dlpi_phdr[i];
      if (segment.p_type == PT_LOAD && holds(*image, segment, sought)) {
        return (segment.p_flags & PF_W) == 0 ? 1 : 2;
      }
    }
    return 0;
  };
  return dl_iterate_phdr(look, const_cast<void*>(address)) == 1;
}

void fill_shared_memory() { std::memset(shared_memory().data, kFill, shared_memory().bytes); }

void check_red_zones() {
  for (const Region* buffer : buffers) {
    const unsigned char *front = buffer->data - kRedBytes, *back = buffer->data + buffer->bytes;
    allow(front, kRedBytes);
    allow(back, kRedBytes);
    const bool intact = is_red(front) && is_red(back);
    forbid(front, kRedBytes);
    forbid(back, kRedBytes);
    if (!intact) throw Error(std::string("a kernel has written next to ") + buffer->name);
  }
}

Buffer::Buffer(std::size_t bytes, std::string name)
    : memory_(new Memory{std::move(name), {}, make_cells(bytes)}) {
  auto* const begin =
      static_cast<unsigned char*>(::operator new(bytes + 2 * kRedBytes, kAlignment));
  std::memset(begin, kRedFill, bytes + 2 * kRedBytes);
  memory_->region = {begin + kRedBytes, bytes, memory_->cells.get(), false, memory_->name.c_str()};
  const Region* const region = &memory_->region;
  buffers.insert(
      std::upper_bound(buffers.begin(), buffers.end(), region,
                       [](const Region* a, const Region* b) { return a->data < b->data; }),
      region);
  forbid(begin, kRedBytes);
  forbid(data() + bytes, kRedBytes);
  clear();
}

Buffer::Buffer(Buffer&& other) noexcept : memory_(std::exchange(other.memory_, nullptr)) {}

Buffer::~Buffer() {
  if (memory_ == nullptr) return;
  buffers.erase(std::find(buffers.begin(), buffers.end(), &memory_->region));
  unsigned char* const begin = data() - kRedBytes;
  allow(begin, size() + 2 * kRedBytes);
  ::operator delete(begin, kAlignment);
  delete memory_;
}

std::size_t Buffer::size() const { return memory_->region.bytes; }
unsigned char* Buffer::data() const { return memory_->region.data; }

void Buffer::write(const void* from) {
  std::memcpy(data(), from, size());
  note_host_write(memory_->region);
}

void Buffer::clear() {
  std::memset(data(), kFill, size());
  note_cleared(memory_->region);
}

}  // namespace proxyless::cuda::emulator
