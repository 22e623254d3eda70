/* A qemu-user plugin that counts the guest's instructions: "instructions N" on stderr, so far and over all threads, whenever the guest
 * makes the system call that MARK is the number of: getpgid, which nothing else asks for.
 *
 *   gcc -O2 -shared -fPIC -o count.so count_instructions.c && qemu-aarch64 -plugin ./count.so PROGRAM
 *
 * The functions of qemu's plugin API, version 1 (docs/devel/tcg-plugins.rst), are declared here: Debian ships no header. */
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>

#define MARK 155 /* getpgid on AArch64 */
#define PUBLIC __attribute__((visibility("default")))

typedef uint64_t qemu_plugin_id_t;
typedef struct qemu_info_t qemu_info_t;
struct qemu_plugin_tb;
enum { QEMU_PLUGIN_INLINE_ADD_U64 = 0 };

extern void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, struct qemu_plugin_tb*));
extern void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb*, int op, void* at, uint64_t operand);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb*);
typedef void (*syscall_fn)(qemu_plugin_id_t, unsigned vcpu, int64_t number, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                           uint64_t, uint64_t, uint64_t);
extern void qemu_plugin_register_vcpu_syscall_cb(qemu_plugin_id_t, syscall_fn);

PUBLIC int qemu_plugin_version = 1;
static uint64_t count;

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb* block) {
  (void)id;
  qemu_plugin_register_vcpu_tb_exec_inline(block, QEMU_PLUGIN_INLINE_ADD_U64, &count, qemu_plugin_tb_n_insns(block));
}

static void called(qemu_plugin_id_t id, unsigned vcpu, int64_t number, uint64_t a, uint64_t b, uint64_t c, uint64_t d,
                   uint64_t e, uint64_t f, uint64_t g, uint64_t h) {
  (void)id, (void)vcpu, (void)a, (void)b, (void)c, (void)d, (void)e, (void)f, (void)g, (void)h;
  if (number == MARK) fprintf(stderr, "instructions %" PRIu64 "\n", count);
}

PUBLIC int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t* info, int argc, char** argv) {
  (void)info;
  (void)argc;
  (void)argv;
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  qemu_plugin_register_vcpu_syscall_cb(id, called);
  return 0;
}
