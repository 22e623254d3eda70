/* maas_rt.h: the C API of the maas_rt inference runtime.
 *
 * The only header that users of the library include. Plain C11 (and C++).
 *
 * Conventions
 *  - Functions return mrt_status; MRT_OK is 0. On any other status mrt_last_error() holds one sentence for the
 *    calling thread, until that thread calls the API again.
 *  - The library never prints, aborts or exits, and no C++ exception crosses this interface.
 *  - `mrt_X_create`/`mrt_X_load` give the caller one reference; `mrt_X_free` takes it back and accepts NULL.
 *  - A program is immutable and may be used from any thread. A session serves one run at a time (a second
 *    concurrent run is refused with MRT_ERROR_BUSY). A state belongs to one run at a time.
 *  - Strings are UTF-8. Pointers returned by getters live as long as the object they were asked of.
 *  - Option structs begin with struct_size, which the caller sets to sizeof(the struct); an older caller's smaller
 *    struct is accepted, missing members take their defaults (zero).
 */
#ifndef MAAS_RT_H_
#define MAAS_RT_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32)
#define MRT_API __declspec(dllexport)
#else
#define MRT_API __attribute__((visibility("default")))
#endif

#define MRT_VERSION_MAJOR 0
#define MRT_VERSION_MINOR 1
#define MRT_VERSION_PATCH 0

/* ---- status ------------------------------------------------------------------------------------------------ */

/* Values are in ranges and are never renumbered: 1-99 the caller, 100-199 the file, 200-299 the machine,
 * 300-399 the run, 900- the library. */
typedef int32_t mrt_status;
enum {
  MRT_OK = 0,
  MRT_ERROR_INVALID_ARGUMENT = 1, /* a null pointer, an index out of range, an option that does not exist */
  MRT_ERROR_SHAPE = 2,            /* rank, extent or relation of a tensor is not what the program declares */
  MRT_ERROR_DTYPE = 3,            /* element type is not what the program declares */
  MRT_ERROR_BUSY = 4,             /* the session or state is in use by another run */
  MRT_ERROR_CAPACITY = 5,         /* the caller's output buffer is too small */
  MRT_ERROR_NO_STATE = 6,         /* the entry keeps states and the run was given none */
  MRT_ERROR_IO = 100,             /* the file could not be opened or read */
  MRT_ERROR_FORMAT = 101,         /* the file is not a valid model.mrt (truncated, damaged, foreign) */
  MRT_ERROR_VERSION = 102,        /* the file was made for a newer runtime */
  MRT_ERROR_HASH = 103,           /* a section's SHA-256 differs from the table, or an encrypted chunk is not genuine */
  MRT_ERROR_CODE_REFUSED = 104,   /* the file holds code and the load options refuse it */
  MRT_ERROR_SIGNATURE = 105,      /* the signature is missing or was not accepted */
  MRT_ERROR_CHANGED = 106,        /* the mapped file was written to after it was loaded */
  MRT_ERROR_KEY = 107,            /* the file is encrypted, and no key was given or none that opens it */
  MRT_ERROR_TARGET = 200,         /* this CPU or operating system lacks what the file was compiled for */
  MRT_ERROR_OUT_OF_MEMORY = 201,
  MRT_ERROR_CANCELLED = 300, /* cancelled before it was complete */
  MRT_ERROR_DEADLINE = 301,  /* the deadline passed before it was complete */
  MRT_ERROR_RUN = 302,       /* a step reported an error (an index out of range in a gather, a failed check) */
  MRT_ERROR_INTERNAL = 900
};

/* The calling thread's last error: one sentence, never NULL, empty after a success. */
MRT_API const char* mrt_last_error(void);
/* "0.1.0" */
MRT_API const char* mrt_version(void);
/* Name of a status, as "MRT_ERROR_SHAPE"; "MRT_ERROR_UNKNOWN" for values this library does not know. */
MRT_API const char* mrt_status_name(mrt_status status);

/* ---- tensors ------------------------------------------------------------------------------------------------ */

/* DLPack's type codes, so that conversion is a copy of three numbers. */
enum {
  MRT_INT = 0,
  MRT_UINT = 1,
  MRT_FLOAT = 2,
  MRT_BFLOAT = 4,
  MRT_COMPLEX = 5,
  MRT_BOOL = 6,
  MRT_FLOAT8_E4M3FN = 10,
  MRT_FLOAT8_E4M3FNUZ = 11,
  MRT_FLOAT8_E5M2 = 12,
  MRT_FLOAT8_E5M2FNUZ = 13,
  MRT_FLOAT8_E8M0FNU = 14,
  MRT_FLOAT4_E2M1FN = 17
};
/* A tensor's int2, uint2, int4, uint4 and float4 lie in the low bits of a byte each, as in numpy's ml_dtypes and
 * DLPack's padded tensors; the other bits are written as 0 and not read. */
typedef struct mrt_dtype {
  uint8_t code;
  uint8_t bits;   /* of one element: 2, 4, 8, 16, 32, 64; bool has 8. Elements of 2 and 4 bits take a byte each */
  uint16_t lanes; /* 1 */
} mrt_dtype;

#define MRT_MAX_RANK 12

/* A view of a dense tensor in host memory. The one who made it owns data, shape and strides. */
typedef struct mrt_tensor {
  void* data;
  mrt_dtype dtype;
  int32_t ndim;
  const int64_t* shape;   /* ndim extents; may be NULL if ndim is 0 */
  const int64_t* strides; /* in elements, ndim of them; NULL means contiguous in row-major order */
  size_t bytes;           /* capacity of data in bytes, for output buffers; 0 means that shape says it */
} mrt_tensor;

/* ---- attributes (kernels, metadata) --------------------------------------------------------------------------- */

typedef struct mrt_attr {
  const char* key;
  const int64_t* ints;  /* n values, if not NULL */
  const double* floats; /* n values, if not NULL */
  const char* str;      /* if not NULL */
  size_t n;
} mrt_attr;

/* ---- the process ---------------------------------------------------------------------------------------------- */

typedef enum mrt_log_level {
  MRT_LOG_DEBUG = 0,
  MRT_LOG_INFO = 1,
  MRT_LOG_WARNING = 2,
  MRT_LOG_ERROR = 3
} mrt_log_level;
typedef void (*mrt_log_fn)(void* user, mrt_log_level level, const char* message);
/* Memory for arenas and weights that are not mapped. alignment is a power of two. */
typedef void* (*mrt_alloc_fn)(void* user, size_t bytes, size_t alignment);
typedef void (*mrt_free_fn)(void* user, void* pointer, size_t bytes);
/* Run task(task_user, i) for every i in [0, count), return when all are done. */
typedef void (*mrt_task_fn)(void* task_user, int32_t index);
typedef void (*mrt_parallel_fn)(void* user, mrt_task_fn task, void* task_user, int32_t count);

/* Hooks of the host; any may be NULL. Valid until the process ends; set before the first program is loaded,
 * later calls are refused with MRT_ERROR_BUSY. */
typedef struct mrt_hooks {
  size_t struct_size;
  void* user;
  mrt_log_fn log;
  mrt_alloc_fn alloc;
  mrt_free_fn free;
  mrt_parallel_fn parallel; /* replaces the library's thread pool */
} mrt_hooks;
MRT_API mrt_status mrt_set_hooks(const mrt_hooks* hooks);

/* CPUs that this process may use: the affinity mask, capped by the cgroup quota (rounded up); at least 1. */
MRT_API int32_t mrt_cpu_count(void);
/* The instruction set that kernels are bound to: "avx512", "avx2", "scalar"; on AArch64 "i8mm", "dotprod", "neon",
 * "scalar". MAAS_RT_ISA may lower it; an unknown value of it makes every load fail with a sentence that says so. */
MRT_API const char* mrt_cpu_isa(void);
/* The named level of this CPU: "x86-64-v3", "x86-64-v2", "x86-64"; "aarch64-i8mm", "aarch64-dotprod", "aarch64". */
MRT_API const char* mrt_cpu_level(void);

/* ---- programs -------------------------------------------------------------------------------------------------- */

typedef struct mrt_program mrt_program;

typedef enum mrt_code_policy { MRT_CODE_ALLOW = 0, MRT_CODE_SIGNED = 1, MRT_CODE_REFUSE = 2 } mrt_code_policy;
typedef enum mrt_verify { MRT_VERIFY_DEFAULT = 0, MRT_VERIFY_FULL = 1 } mrt_verify;
/* Checks the signature section over the section table; returns 1 to accept. */
typedef int32_t (*mrt_signature_fn)(void* user, const void* table, size_t table_bytes, const void* signature,
                                    size_t signature_bytes);
/* Given an encrypted file's encryption section (FORMAT.md), finds the content key that is wrapped there; returns 1 if
 * the host has a key for it. */
typedef int32_t (*mrt_unwrap_fn)(void* user, const void* section, size_t section_bytes);
/* Decrypts one chunk with the content key: AES-256-GCM with a nonce of 12 bytes, over sealed_bytes of ciphertext that
 * end in the tag of 16; writes sealed_bytes - 16 bytes and returns 1 if the tag is right. */
typedef int32_t (*mrt_open_fn)(void* user, const void* nonce, const void* associated, size_t associated_bytes,
                               const void* sealed, size_t sealed_bytes, void* plain);

/* Generated functions of one model for one target that are linked into the program, for systems without dlopen.
 * `maas-rt compile --code object` writes such a table into an object file beside the model's, under the name that the
 * header beside both declares. All of it must outlive the programs that use it. */
#define MRT_CODE_TABLE_VERSION 1
typedef struct mrt_code_function {
  const char* name;
  int32_t (*function)(void* self, const void* arguments, int32_t count, void* result); /* TVM-FFI's for C */
} mrt_code_function;
typedef struct mrt_code_table {
  uint32_t version;                   /* MRT_CODE_TABLE_VERSION */
  uint32_t count;                     /* of functions */
  const char* target;                 /* the level that they need, as mrt_cpu_level has it */
  const unsigned char* model;         /* 32 bytes that the object section of the model's file holds, too */
  const mrt_code_function* functions; /* in the order of their names' bytes */
  void** host[5]; /* variables that a load fills in, NULL where absent: parallel launch, allocation and release of
                     workspace, error, whether a run has to end (FORMAT.md, Code) */
} mrt_code_table;

typedef struct mrt_load_options {
  size_t struct_size;
  mrt_code_policy code;
  mrt_verify verify; /* DEFAULT: everything that is used but the weights is hashed; FULL: the weights too */
  mrt_signature_fn check_signature; /* with it every section is hashed, used or not */
  void* signature_user;
  int32_t copy; /* not 0: read the file into memory of the library instead of mapping it */
  /* Not 0: so many bytes of a mapped file's weights may stay in the process's memory. Whenever steps have read as many,
   * the pages are handed back to the system, which fetches them again as they are used: a run takes longer, and one
   * step may still need more. MRT_ERROR_INVALID_ARGUMENT for bytes that are not mapped. */
  size_t resident_bytes;
  /* For encrypted files, with their signature checked before: called while the load lasts, on its thread. Weights and
   * code are decrypted into memory that is locked (mlock) and left out of core dumps; unlocked, if not 0: that much
   * cannot be locked (RLIMIT_MEMLOCK) is no error. MRT_ERROR_KEY where they are missing or have no key; a file that is
   * not encrypted is refused if open_chunk is given. */
  mrt_unwrap_fn unwrap_key; /* NULL if the host knows the content key */
  mrt_open_fn open_chunk;
  void* key_user;
  int32_t unlocked;
  /* Functions that are linked into the program: tables of any models and targets, of which the load takes the best that
   * is the file's own. They are the host's code: `code` above says nothing of them. */
  const mrt_code_table* const* code_tables;
  size_t code_table_count;
} mrt_load_options;

/* Map a file. options may be NULL.
 * A mapped file must stay as it is while the program lives: a deployment renames a new file over the old one, which
 * goes on being mapped, and never writes into it. A run on a file whose size or time of modification has changed fails
 * with MRT_ERROR_CHANGED, before and after its steps; but pages of a file that is cut short while a run reads them end
 * the process (SIGBUS), as with every mapped file. With `copy` the program has its own memory, and what was checked
 * when it was loaded is what runs, whatever becomes of the file. */
MRT_API mrt_status mrt_program_load(const char* path, const mrt_load_options* options, mrt_program** out);
/* Use a file's bytes in memory. They are borrowed and must outlive the program; data must be 64-byte aligned, else
 * MRT_ERROR_INVALID_ARGUMENT. release (may be NULL) is called with release_user when the program is gone, or at
 * once if loading fails. */
MRT_API mrt_status mrt_program_load_memory(const void* data, size_t bytes, const mrt_load_options* options,
                                           void (*release)(void*), void* release_user, mrt_program** out);
MRT_API mrt_status mrt_program_retain(mrt_program* program);
MRT_API void mrt_program_free(mrt_program* program);

/* The manifest: JSON text, NUL-terminated. */
MRT_API const char* mrt_program_manifest(const mrt_program* program);

/* Entry points: "main" is number 0 in a model that has one. */
MRT_API int32_t mrt_program_entry_count(const mrt_program* program);
MRT_API const char* mrt_program_entry_name(const mrt_program* program, int32_t entry);
MRT_API int32_t mrt_program_entry_find(const mrt_program* program, const char* name); /* -1 if absent */

/* One dimension of an input or output: extent >= 0 if fixed, else -1 with its expression as text ("batch",
 * "2*s+1"), and the smallest and largest extent (max -1: no bound). */
typedef struct mrt_dim {
  int64_t extent;
  const char* expr; /* NULL if fixed */
  int64_t min;
  int64_t max;
} mrt_dim;
typedef struct mrt_value_info {
  const char* name;
  mrt_dtype dtype;
  int32_t ndim;
  const mrt_dim* dims;
} mrt_value_info;
MRT_API int32_t mrt_program_input_count(const mrt_program* program, int32_t entry);
MRT_API int32_t mrt_program_output_count(const mrt_program* program, int32_t entry);
MRT_API mrt_status mrt_program_input_info(const mrt_program* program, int32_t entry, int32_t index,
                                          mrt_value_info* out);
MRT_API mrt_status mrt_program_output_info(const mrt_program* program, int32_t entry, int32_t index,
                                           mrt_value_info* out);
/* 1 if runs draw random numbers (dropout, sampling, noise), which mrt_run_options.seed decides; else 0. */
MRT_API int32_t mrt_program_draws(const mrt_program* program);
MRT_API int32_t mrt_program_state_count(const mrt_program* program);
MRT_API mrt_status mrt_program_state_info(const mrt_program* program, int32_t index, mrt_value_info* out);

/* ---- states ----------------------------------------------------------------------------------------------------- */

/* What a model remembers from one run to the next (running statistics, recurrent state, KV cache). A run that succeeds
 * writes all of its state; one that fails, is cancelled or passes its deadline leaves all of it as it was. */
typedef struct mrt_state mrt_state;
MRT_API mrt_status mrt_state_create(mrt_program* program, mrt_state** out); /* holds the declared initial values */
MRT_API mrt_status mrt_state_clone(const mrt_state* state, mrt_state** out);
MRT_API mrt_status mrt_state_reset(mrt_state* state);
/* A view of one value of the state, index as in mrt_program_state_info; valid until the state is freed. */
MRT_API mrt_status mrt_state_value(mrt_state* state, int32_t index, mrt_tensor* out);
MRT_API void mrt_state_free(mrt_state* state);

/* ---- sessions ---------------------------------------------------------------------------------------------------- */

typedef struct mrt_session mrt_session;
typedef struct mrt_session_options {
  size_t struct_size;
  int32_t threads;      /* 0: mrt_cpu_count(); more than that is lowered to it, with a log line */
  int32_t profile;      /* not 0: record every step */
  int32_t layout_cache; /* shape bindings whose memory layout is kept; 0: the default of 16 */
} mrt_session_options;
MRT_API mrt_status mrt_session_create(mrt_program* program, const mrt_session_options* options, mrt_session** out);
MRT_API void mrt_session_free(mrt_session* session);

/* Cancels runs that were given it: any thread may set it. A run looks at it, at its deadline and at `poll` between two
 * steps, and within steps that take long between the pieces that their work is cut into, each of which takes well below
 * a second. */
typedef struct mrt_cancel mrt_cancel;
MRT_API mrt_status mrt_cancel_create(mrt_cancel** out);
MRT_API void mrt_cancel_set(mrt_cancel* cancel);
MRT_API void mrt_cancel_clear(mrt_cancel* cancel);
MRT_API void mrt_cancel_free(mrt_cancel* cancel);

/* Whether the host wants a run to end (a signal came, a client went away). Must not use the session that runs. */
typedef int32_t (*mrt_poll_fn)(void* user);

typedef struct mrt_run_options {
  size_t struct_size;
  int32_t entry;       /* 0: the first */
  int64_t deadline_ns; /* CLOCK_MONOTONIC time after which the run stops; 0: none */
  mrt_cancel* cancel;  /* may be NULL */
  mrt_state* state;    /* needed if the program has states */
  mrt_poll_fn poll;    /* may be NULL: asked about every 50 ms, on the thread that runs; not 0 cancels the run */
  void* poll_user;
  int32_t seeded; /* not 0: the run draws its random numbers from `seed`; 0: from a seed that the system gives */
  uint64_t seed;  /* the same seed and inputs give the same numbers on every CPU and number of threads; a program that
                     draws none takes no notice */
  int32_t exact_outputs; /* not 0: an output whose data is not NULL must have exactly the result's ndim and shape, else
                          * the run fails with MRT_ERROR_SHAPE */
} mrt_run_options;

/* Run once. inputs: input_count tensors in the program's order, any strides. outputs: output_count tensors; where
 * data is NULL the session's memory is used and the tensor is filled in (data, shape, dtype; valid until the session's
 * next run or its end); where data is not NULL the result is written there: bytes (or shape) says how much room
 * there is, and shape, ndim, dtype are filled in. `shape` then points to memory of the session. A tensor that a run
 * filled in with session memory may be handed in again as it is: it counts as one whose data is NULL. An output may be
 * written over an input; two outputs that share memory, or one in memory of the run's state, are refused. A buffer that
 * turns out too small for a size that the run decides fails the run, state and all; what a failed run leaves in buffers
 * is of no use. The same inputs
 * of the same shapes give the same bits; an element may differ in the last place between batches of different sizes,
 * for which other tiles fit. options may be NULL. After its first run at a shape a session allocates nothing. */
MRT_API mrt_status mrt_session_run(mrt_session* session, const mrt_tensor* inputs, size_t input_count,
                                   mrt_tensor* outputs, size_t output_count, const mrt_run_options* options);

/* The same on a thread of the library. `done` is called there once with the status and its sentence; inputs' data,
 * outputs' array, options' objects stay the caller's and must live until then. */
typedef void (*mrt_done_fn)(void* user, mrt_status status, const char* message);
MRT_API mrt_status mrt_session_run_async(mrt_session* session, const mrt_tensor* inputs, size_t input_count,
                                         mrt_tensor* outputs, size_t output_count, const mrt_run_options* options,
                                         mrt_done_fn done, void* user);

/* The seed of the session's last run, so that it can be run again with the same random numbers. Refused with
 * MRT_ERROR_INVALID_ARGUMENT where the program draws none, and before the first run. */
MRT_API mrt_status mrt_session_seed(const mrt_session* session, uint64_t* out);

/* Bytes of arena and scratch that the session holds now. */
MRT_API size_t mrt_session_memory(const mrt_session* session);

/* ---- pools ------------------------------------------------------------------------------------------------------- */

/* Sessions of one program for many callers at once. A caller takes one, runs it and gives it back; where none is idle,
 * a new one is made. Any thread may call anything; a child of a fork goes on with the idle ones. */
typedef struct mrt_pool mrt_pool;
typedef struct mrt_pool_options {
  size_t struct_size;
  int32_t threads, layout_cache; /* of each session, as in mrt_session_options */
  int32_t kept;                  /* idle sessions that are kept; 0: the default of 16 */
  int32_t waiting;               /* asynchronous runs that may wait; 0: the default of 1024 */
} mrt_pool_options;
/* The first session is made now, so that what it cannot have is said now. options may be NULL. */
MRT_API mrt_status mrt_pool_create(mrt_program* program, const mrt_pool_options* options, mrt_pool** out);
/* Asynchronous runs that wait end with MRT_ERROR_CANCELLED, those under way as they do. */
MRT_API void mrt_pool_free(mrt_pool* pool);
MRT_API mrt_status mrt_pool_take(mrt_pool* pool, mrt_session** out);
MRT_API void mrt_pool_give(mrt_pool* pool, mrt_session* session); /* one of this pool's, that does not run */
/* mrt_session_run_async on the next thread and session that are free, in the order of the calls: a run that waits has
 * no session yet. MRT_ERROR_BUSY where as many wait as may, or the state is in use. One whose deadline passes or that
 * is cancelled while it waits is not begun. Output memory of a session's is valid until `done` returns. */
MRT_API mrt_status mrt_pool_submit(mrt_pool* pool, const mrt_tensor* inputs, size_t input_count, mrt_tensor* outputs,
                                   size_t output_count, const mrt_run_options* options, mrt_done_fn done, void* user);
/* Bytes of arenas and scratch that idle sessions hold. */
MRT_API size_t mrt_pool_memory(const mrt_pool* pool);

/* One execution of a step in the last profiled run. Steps that treat every image of a batch alone may run several
 * times, each time on a few images, and by `lanes` threads side by side. */
typedef struct mrt_step_record {
  const char* name;   /* the step's name in the plan */
  const char* kernel; /* the kernel or generated function that ran, as "gemm_f32_6x16_avx2" */
  int64_t start_ns;   /* CLOCK_MONOTONIC */
  int64_t duration_ns;
  double flops;        /* floating-point operations by the formula of the operator; 0 if unknown */
  double bytes;        /* read and written, each operand once */
  int32_t lane, lanes; /* the thread among those that ran at the same time, and their number; 0 of 1 elsewhere */
} mrt_step_record;
/* records is owned by the session and valid until its next run. */
MRT_API mrt_status mrt_session_profile(const mrt_session* session, const mrt_step_record** records, size_t* count);

/* ---- kernels: for the compiler and for tests ----------------------------------------------------------------------
 */

/* The registry as JSON: of each contract its version, inputs, outputs and attributes with their types, bounds and
 * defaults, its packings, and its kernels, best first, with their ISA; beside these the library's version, the CPU's
 * level and the ISA that a load binds. */
MRT_API const char* mrt_kernels_json(void);
/* Bytes that `weight` takes in a packing, and the packing itself; portable code. attrs are the contract's. */
MRT_API mrt_status mrt_kernel_packed_bytes(const char* contract, const char* packing, const mrt_tensor* weight,
                                           const mrt_attr* attrs, size_t attr_count, size_t* out);
MRT_API mrt_status mrt_kernel_pack(const char* contract, const char* packing, const mrt_tensor* weight,
                                   const mrt_attr* attrs, size_t attr_count, void* out, size_t out_bytes);
/* Run one contract. isa: NULL or "" for the one a load would bind, "reference" for the scalar reference, else
 * "scalar", "avx2", "neon", ...: MRT_ERROR_TARGET if this CPU or build lacks it. Outputs are the caller's memory. */
MRT_API mrt_status mrt_kernel_run(const char* contract, const char* isa, const mrt_tensor* inputs, size_t input_count,
                                  mrt_tensor* outputs, size_t output_count, const mrt_attr* attrs, size_t attr_count,
                                  int32_t threads);

/* What the machine can do at most with so many threads at once, measured now (about 50 ms, a buffer of 64 MiB): 10^9
 * float32 operations a second in multiply-adds, and 10^9 bytes a second read from memory. threads: 1 to
 * mrt_cpu_count(). */
MRT_API mrt_status mrt_machine_rates(int32_t threads, double* gflops, double* gbps);

#ifdef __cplusplus
}
#endif
#endif /* MAAS_RT_H_ */
