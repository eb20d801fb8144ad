/* Kernels are host shared objects made by the stand-in for hivmc. A launch runs the program once per block, on one
 * vector core (hivmc/core): blocks of one launch run one after another. What the core refuses, and a fault in global
 * memory, becomes an error that names the kernel. */
#include "host.h"
#include <dlfcn.h>
#include <runtime/runtime/rt.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MAX_GRID = 65535 };
typedef const char *entry_function(void *args, uint32_t block); /* what was wrong, or NULL */
/* What hivmc/entry.py puts into the shared object. */
typedef struct { uint32_t args_size, pointers; const uint32_t *pointer_offsets; } layout;
typedef struct kernel {
  const void *stub;
  char name[128];
  entry_function *entry;
  const layout *layout;
  const char *key; /* under which the compiler keeps what it was made of */
  struct kernel *next;
} kernel;
typedef struct { host_task task; const void *stub; uint32_t blocks, size; char *args; } launch_task;
static kernel *kernels;

rtError_t rtDevBinaryRegister(const rtDevBinary_t *binary, void **handle) {
  HOST_LOCKED;
  int refused = host_refuse_in_capture("loading a kernel (a first compile)");
  if (refused) return refused;
  int fd = memfd_create("host_cann_kernel", MFD_CLOEXEC);
  char path[64];
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  if (write(fd, binary->data, binary->length) != (ssize_t)binary->length)
    return host_fail(ACL_ERROR_RT_INTERNAL_ERROR, "no room for a kernel of %llu bytes", (unsigned long long)binary->length);
  /* The descriptor stays open: the loader knows libraries by path, and a number used again would name an old one. */
  *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  return *handle ? 0 : host_fail(ACL_ERROR_RT_PARAM_INVALID, "this is no kernel of the host compiler: %s", dlerror());
}

rtError_t rtFunctionRegister(void *handle, const void *stub, const char *stub_name, const void *name, uint32_t mode) {
  (void)stub_name, (void)mode;
  HOST_LOCKED;
  kernel *k = calloc(1, sizeof *k);
  *k = (kernel){stub, "", (entry_function *)dlsym(handle, "host_cann_entry"), dlsym(handle, "host_cann_layout"),
                dlsym(handle, "host_cann_key"), kernels};
  if (!k->entry || !k->layout || !k->key) return host_fail(ACL_ERROR_RT_KERNEL_LOOKUP, "kernel %s: %s", (const char *)name, dlerror());
  snprintf(k->name, sizeof k->name, "%s", (const char *)name);
  kernels = k;
  return 0;
}

static const kernel *kernel_of(const void *stub) {
  for (const kernel *k = kernels; k; k = k->next)
    if (k->stub == stub) return k;
  return NULL;
}

static __thread sigjmp_buf *escape;
static __thread void *fault_address;

static void on_fault(int signal_number, siginfo_t *info, void *context) {
  (void)context;
  if (!escape) { /* not ours: fault again, with the default action */
    signal(signal_number, SIG_DFL);
    return;
  }
  fault_address = info->si_addr;
  siglongjmp(*escape, 1);
}

static int run_blocks(const kernel *k, char *args, const int32_t grid[3]) {
  sigjmp_buf here;
  struct sigaction act = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER}, segv, bus;
  sigaction(SIGSEGV, &act, &segv);
  sigaction(SIGBUS, &act, &bus);
  const uint32_t blocks = grid[0] * grid[1] * grid[2];
  volatile uint32_t block = 0;
  const char *volatile refused = NULL;
  bool faulted = sigsetjmp(here, 1);
  if (!faulted) {
    escape = &here;
    for (; block < blocks && !refused; block++) refused = k->entry(args, block);
  }
  escape = NULL;
  sigaction(SIGSEGV, &segv, NULL);
  sigaction(SIGBUS, &bus, NULL);
  if (!refused && !faulted) return 0;
  uint32_t at = refused ? block - 1 : block, rows = grid[1] * grid[2]; /* programs count the last axis first */
  char text[320];
  snprintf(text, sizeof text, "kernel %s, block (%u, %u, %u)", k->name, at / rows, at % rows / grid[2], at % grid[2]);
  if (refused) return host_fail(ACL_ERROR_RT_VECTOR_CORE_EXCEPTION, "%s: %s", text, refused);
  return host_fail(ACL_ERROR_RT_VECTOR_CORE_EXCEPTION, "%s, touched %p, %s", text, fault_address,
                   host_describe(fault_address).text);
}

/* The launcher's struct may begin with the address of the inter-core flags, which the chip and not the kernel asks
 * for; its size, always a multiple of 8, says whether it does. */
static char *arguments(const kernel *k, char *args, uint32_t size) {
  uint32_t plain = (k->layout->args_size + 7) / 8 * 8;
  if (size == plain + 8) return args + 8;
  return size == plain ? args : NULL;
}

static int check_pointers(const kernel *k, const char *args) {
  for (uint32_t i = 0; i < k->layout->pointers; i++) {
    void *p;
    memcpy(&p, args + k->layout->pointer_offsets[i], sizeof p);
    const host_allocation *a = host_find(p);
    if (p && !(a && a->live && a->device))
      return host_fail(ACL_ERROR_RT_PARAM_INVALID, "kernel %s: pointer argument %u is %p, not device memory (%s)", k->name, i, p,
                       host_describe(p).text);
  }
  return 0;
}

/* Everything about a launch is checked here, when it runs, and not where it is submitted: a failing submission makes
 * torch-npu's queue throw through triton-ascend's launcher, which catches nothing, and the process is gone. */
static int run_launch(host_task *task) {
  launch_task *l = (launch_task *)task;
  const kernel *k = kernel_of(l->stub);
  if (!k) return host_fail(ACL_ERROR_RT_KERNEL_LOOKUP, "launch of a kernel that was never loaded");
  if (l->blocks < 1 || l->blocks > MAX_GRID)
    return host_fail(ACL_ERROR_RT_PARAM_INVALID, "kernel %s: a grid of %u blocks; 1 to %d are possible", k->name, l->blocks, MAX_GRID);
  char *args = arguments(k, l->args, l->size);
  if (!args)
    return host_fail(ACL_ERROR_RT_PARAM_INVALID, "kernel %s: %u bytes of arguments, %u expected", k->name, l->size, k->layout->args_size);
  int32_t grid[3];
  memcpy(grid, args + k->layout->args_size - sizeof grid, sizeof grid);
  host_note_launch(k->key, grid);
  int code = check_pointers(k, args);
  if (!code) code = run_blocks(k, args, grid);
  char after[160];
  snprintf(after, sizeof after, "by kernel %s", k->name);
  return code ? code : host_check_canaries(after);
}

static void drop_launch(host_task *task) { free(((launch_task *)task)->args); }

rtError_t rtKernelLaunch(const void *stub, uint32_t blocks, void *args, uint32_t size, void *desc, rtStream_t stream) {
  (void)desc;
  host_release_copies();
  if (host_discards_launches()) return 0;
  launch_task *l = host_new_task(sizeof *l, run_launch);
  *l = (launch_task){l->task, stub, blocks, size, memcpy(malloc(size), args, size)};
  l->task.drop = drop_launch;
  host_submit(host_stream_of(stream), &l->task); /* a fault shows at the next synchronisation */
  return 0;
}

rtError_t rtGetC2cCtrlAddr(uint64_t *address, uint32_t *length) { /* flags between cores: vector kernels use none */
  *address = 0;
  *length = 0;
  return 0;
}
