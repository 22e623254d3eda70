#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>

#include "runtime/code_provider.h"

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U
#endif

namespace mrt {
namespace {

// glibc takes two libraries of the same path for one, and descriptors' numbers recur: so each load spells the path of
// its descriptor differently, by "./" and "/" between two parts.
std::string unique_path(int fd) {
  static std::atomic<uint32_t> counter{0};
  uint64_t bits = (uint64_t{counter.fetch_add(1)} << 20) ^ (reinterpret_cast<uintptr_t>(&counter) >> 4);
  std::string path = "/proc/self/fd/";
  for (; bits != 0; bits >>= 1) path += (bits & 1) ? "./" : "/";
  return path + std::to_string(fd);
}

int anonymous_file() {
  int fd = memfd_create("maas_rt_code", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_EXEC);
  // Kernels before 6.3 do not know MFD_EXEC, and need none.
  if (fd < 0 && errno == EINVAL) fd = memfd_create("maas_rt_code", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  return fd;
}

bool write_all(int fd, const uint8_t* data, size_t size) {
  while (size > 0) {
    const ssize_t n = write(fd, data, size < (size_t{1} << 30) ? size : size_t{1} << 30);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    data += n;
    size -= static_cast<size_t>(n);
  }
  return true;
}

#if defined(__x86_64__)
constexpr int kMachine = EM_X86_64;
#elif defined(__aarch64__)
constexpr int kMachine = EM_AARCH64;
#else
constexpr int kMachine = EM_NONE;  // for which no target has a name
#endif

// Whatever its target says.
bool is_shared_object(const uint8_t* p, size_t size) {
  Elf64_Ehdr header;
  if (size < sizeof(header)) return false;
  std::memcpy(&header, p, sizeof(header));
  return std::memcmp(header.e_ident, ELFMAG, SELFMAG) == 0 && header.e_ident[EI_CLASS] == ELFCLASS64 &&
         header.e_ident[EI_DATA] == ELFDATA2LSB && header.e_type == ET_DYN && header.e_machine == kMachine;
}

class Library final : public CodeProvider {
 public:
  ~Library() override {
    if (handle_) dlclose(handle_);
    if (locked_) munmap(locked_, locked_size_);
  }

  Status load(const Container& container, const Section& section, const mrt_load_options& options) {
    const char* file = container.name().c_str();
    const auto cannot = [&](const char* what) {
      return fail(MRT_ERROR_TARGET, "the code section of '%s' cannot be loaded: %s: %s", file, what,
                  std::strerror(errno));
    };
    LockedBytes opened;
    const uint8_t* code = container.data(section);
    size_t size = section.size;
    if (container.encrypted()) {
      MRT_TRY(container.decrypt(section, options, true, &opened));
      code = opened.data();
      size = opened.size();
    }
    if (!is_shared_object(code, size))
      return fail(MRT_ERROR_FORMAT, "the code section for %s of '%s' is no 64-bit ELF shared object for this machine",
                  section.target, file);
    struct Descriptor {
      int fd;
      ~Descriptor() {
        if (fd >= 0) close(fd);
      }
    } descriptor{anonymous_file()};
    if (descriptor.fd < 0) return cannot("memfd_create");
    if (!write_all(descriptor.fd, code, size)) return cannot("write");
    if (fcntl(descriptor.fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) != 0) return cannot("seal");
    // It is the sealed copy that is hashed, or compared: nobody can change it any more before it is mapped as code.
    void* copy = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, descriptor.fd, 0);
    if (copy == MAP_FAILED) return cannot("mmap");
    if (container.encrypted()) {
      locked_ = copy;
      locked_size_ = size;
#if defined(MADV_DONTDUMP)
      (void)madvise(copy, size, MADV_DONTDUMP);
#endif
      if (std::memcmp(copy, code, size) != 0)
        return fail(MRT_ERROR_HASH, "the code of '%s' was changed while it was loaded", file);
      if (mlock(copy, size) != 0 && options.unlocked == 0) return cannot("mlock");
    } else {
      const Status hash = container.check_hash(section, copy);
      munmap(copy, size);
      MRT_TRY(hash);
    }
    handle_ = dlopen(unique_path(descriptor.fd).c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!handle_) {
      const char* reason = dlerror();
      return fail(MRT_ERROR_TARGET, "the code section for %s of '%s' cannot be loaded: %s", section.target, file,
                  reason ? reason : "unknown reason");
    }
    for (int i = 0; i < kCodeHostCount; ++i)
      if (void* slot = dlsym(handle_, kCodeHostNames[i])) std::memcpy(slot, &kCodeHost[i], sizeof(void*));
    return Status();
  }

  CodeFunction find(const std::string& symbol) const override {
    return reinterpret_cast<CodeFunction>(dlsym(handle_, ("__tvm_ffi_" + symbol).c_str()));
  }

 private:
  void* handle_ = nullptr;
  void* locked_ = nullptr;  // pages of the copy that stay in memory
  size_t locked_size_ = 0;
};

}  // namespace

Status open_library(const Container& container, const Section& section, const mrt_load_options& options,
                    std::unique_ptr<CodeProvider>* out) {
  std::unique_ptr<Library> library(new Library);
  MRT_TRY(library->load(container, section, options));
  *out = std::move(library);
  return Status();
}

}  // namespace mrt
