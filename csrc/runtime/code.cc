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
#include <memory>
#include <new>

#include "base/thread_pool.h"
#include "runtime/workspace.h"

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U
#endif

namespace mrt {
namespace {

// ---- what generated functions call ----

thread_local int32_t t_threads = 1, t_pieces = 1;
thread_local Watch* t_watch = nullptr;
thread_local char t_error[512];

struct ParallelEnv {
  void* sync;
  int32_t num_task;
};
using ParallelBody = int (*)(int32_t task, ParallelEnv* env, void* data);

// The workspace of this thread, and the one of the parallel loop whose task it runs, if any.
thread_local Workspace t_workspace;
thread_local Workspace* t_task_workspace = nullptr;

void* alloc_workspace(int, int, uint64_t bytes, int, int) {
  return (t_task_workspace ? t_task_workspace : &t_workspace)->take(bytes);
}
int free_workspace(int, int, void* pointer) {
  if (pointer) (t_task_workspace ? t_task_workspace : &t_workspace)->give_back(pointer);
  return 0;
}

// Workspaces for the tasks of parallel loops belong to the thread that launches them, not to the workers: which worker
// gets a task is chance, and the first task that comes to it late must not allocate.
struct TaskWorkspace {
  Workspace workspace;
  std::atomic<bool> in_use{false};
};
struct TaskWorkspaces {
  std::unique_ptr<TaskWorkspace[]> slots;
  int32_t count = 0;

  bool reserve(int32_t wanted) {
    if (wanted <= count) return true;
    slots.reset(new (std::nothrow) TaskWorkspace[static_cast<size_t>(wanted)]);
    count = slots ? wanted : 0;
    return count > 0;
  }
  // As many tasks run at a time as there are slots, so one is free.
  TaskWorkspace* take() const {
    for (int32_t i = 0;; i = i + 1 < count ? i + 1 : 0)
      if (!slots[i].in_use.exchange(true, std::memory_order_acquire)) return &slots[i];
  }
  // What one task needed, any slot may have to hold in the next run.
  void level() const {
    size_t peak = 0;
    for (int32_t i = 0; i < count; ++i) peak = slots[i].workspace.peak() > peak ? slots[i].workspace.peak() : peak;
    for (int32_t i = 0; i < count; ++i) slots[i].workspace.prepare(peak);
  }
};
thread_local TaskWorkspaces t_task_workspaces;

struct Launch {
  ParallelBody body;
  void* data;
  ParallelEnv env;
  const TaskWorkspaces* workspaces;
  Watch* watch;
  std::atomic<int> failures;
  char error[sizeof(t_error)];
};

void run_task(void* user, int32_t, int32_t task) {
  Launch* l = static_cast<Launch*>(user);
  if (l->watch && l->watch->stop()) return;
  TaskWorkspace* slot = l->workspaces->take();
  Workspace* const outer = t_task_workspace;
  Watch* const outer_watch = t_watch;
  t_task_workspace = &slot->workspace;
  t_watch = l->watch;
  const int rc = l->body(task, &l->env, l->data);
  t_watch = outer_watch;
  t_task_workspace = outer;
  slot->in_use.store(false, std::memory_order_release);
  if (rc == 0) return;
  if (l->failures.fetch_add(1) == 0) std::memcpy(l->error, t_error, sizeof(t_error));
  t_error[0] = '\0';
}

// num_task 0: as many tasks as the session has threads, or more where the work is long. A task's error moves to the
// thread that launched; so does a run that has to end.
int parallel_launch(ParallelBody body, void* data, int32_t num_task) {
  ParallelEnv env{nullptr, num_task > 0 ? num_task : t_watch && t_pieces > t_threads ? t_pieces : t_threads};
  if (env.num_task <= 1 || t_threads <= 1 || t_task_workspace) {
    // One thread, or a loop inside of a task: the tasks in order, here.
    for (int32_t task = 0; task < env.num_task; ++task) {
      if (t_watch && t_watch->stop()) return -1;
      if (const int rc = body(task, &env, data)) return rc;
    }
    return 0;
  }
  if (!t_task_workspaces.reserve(t_threads)) {
    std::snprintf(t_error, sizeof(t_error), "no memory for the workspaces of a parallel loop");
    return -1;
  }
  Launch launch{body, data, env, &t_task_workspaces, t_watch, {0}, {0}};
  ThreadPool::process()->run(env.num_task, t_threads, run_task, &launch);
  t_task_workspaces.level();
  if (t_watch && t_watch->stopped()) return -1;
  if (launch.failures.load() == 0) return 0;
  std::memcpy(t_error, launch.error, sizeof(t_error));
  return -1;
}

// Long loops ask between two iterations: not 0, the function is to return an error, whatever it says.
int stopped() { return t_watch && t_watch->stop(); }

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

// ---- loading ----

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
  if (locked_) munmap(locked_, locked_size_);
}

Status CodeModule::load(const Container& container, const Section& section, const mrt_load_options& options) {
  name_ = container.name();
  const char* file = name_.c_str();
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
  set_variable(handle_, "__TVMBackendParallelLaunch", parallel_launch);
  set_variable(handle_, "__TVMBackendAllocWorkspace", alloc_workspace);
  set_variable(handle_, "__TVMBackendFreeWorkspace", free_workspace);
  set_variable(handle_, "__mrt_error_set_raised", set_raised);
  set_variable(handle_, "__mrt_stopped", stopped);
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

CodeRun::CodeRun(int32_t threads, Watch* watch) : outer_threads_(t_threads), outer_watch_(t_watch) {
  t_threads = threads;
  t_watch = watch->active() ? watch : nullptr;
}
CodeRun::~CodeRun() {
  t_threads = outer_threads_;
  t_watch = outer_watch_;
}

void set_code_pieces(int32_t pieces) { t_pieces = pieces; }

const char* take_code_error() {
  thread_local char taken[sizeof(t_error)];
  std::memcpy(taken, t_error, sizeof(t_error));
  t_error[0] = '\0';
  return taken;
}

}  // namespace mrt
