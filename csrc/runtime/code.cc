#include "runtime/code.h"

#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "base/arena.h"
#include "base/thread_pool.h"

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U
#endif

namespace mrt {
namespace {

// ---- what generated functions call
// -----------------------------------------------------------------------------------

thread_local int32_t t_threads = 1;
thread_local char t_error[512];

struct ParallelEnv {
  void* sync;
  int32_t num_task;
};
using ParallelBody = int (*)(int32_t task, ParallelEnv* env, void* data);

struct Launch {
  ParallelBody body;
  void* data;
  ParallelEnv env;
  std::atomic<int> failures;
  char error[sizeof(t_error)];
};

// num_task 0: as many tasks as the session has threads. A task's error moves to the thread that launched.
int parallel_launch(ParallelBody body, void* data, int32_t num_task) {
  Launch launch{body, data, {nullptr, num_task > 0 ? num_task : t_threads}, {0}, {0}};
  const auto run = [](void* user, int32_t task) {
    Launch* l = static_cast<Launch*>(user);
    if (l->body(task, &l->env, l->data) == 0) return;
    if (l->failures.fetch_add(1) == 0) std::memcpy(l->error, t_error, sizeof(t_error));
    t_error[0] = '\0';
  };
  ThreadPool::process()->run(launch.env.num_task, t_threads, run, &launch);
  if (launch.failures.load() == 0) return 0;
  std::memcpy(t_error, launch.error, sizeof(t_error));
  return -1;
}

// Temporary buffers of generated functions: a stack per thread in chunks that are kept, so that a steady run allocates
// nothing. Buffers are freed in any order; the top is taken back once it is free.
class Workspace {
 public:
  ~Workspace() {
    while (top_) drop();
  }

  void* take(size_t bytes) {
    const size_t need = align_up(bytes, kAlignment) + sizeof(Header);
    if (need < bytes) return nullptr;
    if (!top_ || top_->size - top_->used < need) {
      if (!grow(need)) return nullptr;
    }
    Header* header = reinterpret_cast<Header*>(reinterpret_cast<uint8_t*>(top_) + top_->used);
    header->size = need;
    header->previous = top_->last;
    header->freed = false;
    top_->last = header;
    top_->used += need;
    live_ += need;
    if (live_ > peak_) peak_ = live_;
    return header + 1;
  }

  void give_back(void* pointer) {
    (static_cast<Header*>(pointer) - 1)->freed = true;
    for (;;) {
      while (top_->last && top_->last->freed) {
        top_->used -= top_->last->size;
        live_ -= top_->last->size;
        top_->last = top_->last->previous;
      }
      if (top_->last || !top_->below) break;
      drop();
    }
    // All is free: the lowest chunk stays, and from now on it is as large as all of them were together.
    if (live_ == 0 && top_->size - sizeof(Chunk) < peak_) grow(peak_);
  }

 private:
  struct alignas(kAlignment) Header {
    size_t size;
    Header* previous;
    bool freed;
  };
  struct alignas(kAlignment) Chunk {
    size_t size, used;
    Header* last;
    Chunk* below;
  };

  bool grow(size_t need) {
    if (need > SIZE_MAX / 4) return false;
    if (top_ && !top_->last) drop();  // an empty chunk that is too small gives way
    const size_t size = align_up(need + sizeof(Chunk), size_t{1} << 16);
    Chunk* chunk = static_cast<Chunk*>(std::aligned_alloc(kAlignment, size));
    if (!chunk) return false;
    chunk->size = size;
    chunk->used = sizeof(Chunk);
    chunk->last = nullptr;
    chunk->below = top_;
    top_ = chunk;
    return true;
  }
  void drop() {
    Chunk* chunk = top_;
    top_ = chunk->below;
    std::free(chunk);
  }

  Chunk* top_ = nullptr;
  size_t live_ = 0;  // bytes taken and not given back
  size_t peak_ = 0;
};
thread_local Workspace t_workspace;

void* alloc_workspace(int, int, uint64_t bytes, int, int) { return t_workspace.take(bytes); }
int free_workspace(int, int, void* pointer) {
  if (pointer) t_workspace.give_back(pointer);
  return 0;
}

// "kind: part part part" on one line.
void set_raised(const char* kind, const char** parts, int32_t count) {
  size_t used = 0;
  const auto append = [&](const char* text) {
    for (; text && *text && used + 1 < sizeof(t_error); ++text)
      t_error[used++] = static_cast<unsigned char>(*text) < ' ' ? ' ' : *text;
  };
  append(kind ? kind : "Error");
  append(": ");
  for (int32_t i = 0; i < count; ++i) append(parts[i]);
  t_error[used] = '\0';
}

// ---- loading
// ---------------------------------------------------------------------------------------------------------

// glibc takes two libraries of the same path for one, and descriptors' numbers recur: so each load spells the path of
// its descriptor differently, by "./" and "/" between two parts.
std::string unique_path(int fd) {
  static std::atomic<uint64_t> counter{0};
  uint64_t bits = (counter.fetch_add(1) << 20) ^ (reinterpret_cast<uintptr_t>(&counter) >> 4);
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

bool is_shared_object(const uint8_t* p, size_t size) {
  Elf64_Ehdr header;
  if (size < sizeof(header)) return false;
  std::memcpy(&header, p, sizeof(header));
  return std::memcmp(header.e_ident, ELFMAG, SELFMAG) == 0 && header.e_ident[EI_CLASS] == ELFCLASS64 &&
         header.e_type == ET_DYN;
}

template <typename F>
void set_variable(void* handle, const char* name, F* function) {
  if (void* slot = dlsym(handle, name)) {
    void* value = reinterpret_cast<void*>(function);
    std::memcpy(slot, &value, sizeof(value));
  }
}

}  // namespace

CodeModule::~CodeModule() {
  if (handle_) dlclose(handle_);
}

Status CodeModule::load(const Container& container, const Section& section) {
  name_ = container.name();
  const char* file = name_.c_str();
  const auto cannot = [&](const char* what) {
    return fail(MRT_ERROR_TARGET, "the code section of '%s' cannot be loaded: %s: %s", file, what,
                std::strerror(errno));
  };
  if (!is_shared_object(container.data(section), section.size))
    return fail(MRT_ERROR_FORMAT, "the code section for %s of '%s' is no 64-bit ELF shared object", section.target,
                file);
  struct Descriptor {
    int fd;
    ~Descriptor() {
      if (fd >= 0) close(fd);
    }
  } descriptor{anonymous_file()};
  if (descriptor.fd < 0) return cannot("memfd_create");
  if (!write_all(descriptor.fd, container.data(section), section.size)) return cannot("write");
  if (fcntl(descriptor.fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) != 0) return cannot("seal");
  // The hash is that of the sealed copy: nobody can change it any more before it is mapped as code.
  void* copy = mmap(nullptr, section.size, PROT_READ, MAP_PRIVATE, descriptor.fd, 0);
  if (copy == MAP_FAILED) return cannot("mmap");
  const Status hash = container.check_hash(section, copy);
  munmap(copy, section.size);
  MRT_TRY(hash);
  handle_ = dlopen(unique_path(descriptor.fd).c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle_) {
    const char* reason = dlerror();
    return fail(MRT_ERROR_TARGET, "the code section for %s of '%s' cannot be loaded: %s", section.target, file,
                reason ? reason : "unknown reason");
  }
  set_variable(handle_, "__TVMBackendParallelLaunch", parallel_launch);
  set_variable(handle_, "__TVMBackendAllocWorkspace", alloc_workspace);
  set_variable(handle_, "__TVMBackendFreeWorkspace", free_workspace);
  set_variable(handle_, "__mrt_error_set_raised", set_raised);
  return Status();
}

Status CodeModule::find(const std::string& symbol, CodeFunction* out) const {
  void* address = handle_ ? dlsym(handle_, ("__tvm_ffi_" + symbol).c_str()) : nullptr;
  if (!address)
    return fail(MRT_ERROR_FORMAT, "the plan of '%s' calls '%s', which its code section does not define", name_.c_str(),
                symbol.c_str());
  std::memcpy(out, &address, sizeof(address));
  return Status();
}

CodeThreads::CodeThreads(int32_t threads) : outer_(t_threads) { t_threads = threads; }
CodeThreads::~CodeThreads() { t_threads = outer_; }

const char* take_code_error() {
  thread_local char taken[sizeof(t_error)];
  std::memcpy(taken, t_error, sizeof(t_error));
  t_error[0] = '\0';
  return taken;
}

}  // namespace mrt
