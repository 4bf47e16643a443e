/* Reads one call from stdin, runs it on the kernel that is linked in, writes outputs and carries to stdout. With -DLOADED the kernel
 * is in the library that the first argument names.
 *
 * Everything is an int64 except data (as stored) and real attributes (double), in the order of the reads in main. The kernel's
 * parts run one after the other. */
#include "conifer_kernel.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PARTS = 3 };
#ifdef LOADED
#include <dlfcn.h>
#endif

static void take(void *to, size_t size, size_t n) {
    if (fread(to, size, n, stdin) != n) {
        fputs("the problem ends early\n", stderr);
        exit(2);
    }
}

static int64_t number(void) {
    int64_t n;
    take(&n, sizeof n, 1);
    return n;
}

static void *room(size_t bytes) {
    void *made = aligned_alloc(64, (bytes + 127) / 64 * 64);
    if (made == NULL) {
        exit(3);
    }
    return made;
}

/* Fields of a later minor, which a test adds to the header, hold what no plugin of this one may look at. */
#ifdef LATER
#define ADD_LATER(s) memset(&(s)->later, LATER, sizeof (s)->later)
#else
#define ADD_LATER(s) (void)(s)
#endif

/* A dense tensor and its size in bytes; its data follows where `filled`. */
typedef struct {
    ck_tensor tensor;
    size_t    bytes;
} held_tensor;

static const ck_tensor *tensor(int filled) {
    held_tensor *held = calloc(1, sizeof *held);
    ck_tensor   *t = &held->tensor;
    t->struct_size = sizeof *t;
    ADD_LATER(t);
    t->flags = (uint32_t)number();
    t->dtype = (uint32_t)number();
    held->bytes = (size_t)number();
    t->rank = (uint32_t)number();
    int64_t *dim = calloc(t->rank + 1, sizeof *dim), *stride = calloc(t->rank + 1, sizeof *stride);
    take(dim, sizeof *dim, t->rank);
    take(stride, sizeof *stride, t->rank);
    t->dim = dim;
    t->stride_bytes = stride;
    t->data = room(held->bytes);
    if (filled) {
        take(t->data, 1, held->bytes);
    }
    return t;
}

static void give(const ck_tensor *t) { fwrite(t->data, 1, ((const held_tensor *)t)->bytes, stdout); }

static void require(ck_status status, const char *what, const char *text) {
    if (status != CK_OK) {
        fprintf(stderr, "%s returned %d: %s\n", what, (int)status, text);
        exit(4);
    }
}

typedef const ck_plugin *(CK_CALL *entry_function)(const ck_host *, ck_error *);

static entry_function find_entry(const char *path) {
#ifdef LOADED
    void         *library = dlopen(path, RTLD_NOW);
    entry_function entry = library ? (entry_function)dlsym(library, "conifer_kernel_entry_v1") : NULL;
    if (entry == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        exit(5);
    }
    return entry;
#else
    (void)path;
    return conifer_kernel_entry_v1;
#endif
}

int main(int n_argument, char **argument) {
    char      text[512] = "";
    ck_error  error = {.struct_size = sizeof error, .text_capacity = sizeof text, .text = text};
    ck_host   host = {.struct_size = sizeof host, .abi_minor = CK_ABI_MINOR};
    ck_call   call = {.struct_size = sizeof call};
    const int n_input = (int)number(), n_state = (int)number(), n_output = (int)number();
    const ck_tensor *input[16] = {NULL}, *state[4] = {NULL}, *output[4] = {NULL};
    for (int i = 0; i < n_input; i++) {
        input[i] = number() ? tensor(1) : NULL;
    }
    for (int i = 0; i < n_state; i++) {
        state[i] = tensor(1);
    }
    for (int i = 0; i < n_output; i++) {
        output[i] = tensor(0);
    }
    int64_t ints[8];
    double  reals[8];
    call.n_input = (uint32_t)n_input, call.n_state = (uint32_t)n_state, call.n_output = (uint32_t)n_output;
    call.input = input, call.state = state, call.output = output;
    call.n_int = (uint32_t)number();
    take(ints, sizeof *ints, call.n_int);
    call.n_real = (uint32_t)number();
    take(reals, sizeof *reals, call.n_real);
    call.n_seq = (uint32_t)number();
    int32_t start[9], slot[8];
    for (uint32_t i = 0; i <= call.n_seq; i++) {
        start[i] = (int32_t)number();
    }
    for (uint32_t i = 0; i < call.n_seq; i++) {
        slot[i] = (int32_t)number();
    }
    ADD_LATER(&error);
    ADD_LATER(&host);
    ADD_LATER(&call);
    call.int_attr = ints, call.real_attr = reals, call.seq_start = start, call.slot = slot;

    const ck_kernel *kernel = find_entry(n_argument > 1 ? argument[1] : "")(&host, &error)->kernel[0];
    require(kernel->supports(kernel->self, &call, &error), "supports", text);
    ck_need need = {.struct_size = sizeof need, .n_phase = 1};
    ADD_LATER(&need);
    require(kernel->plan(kernel->self, &call, PARTS, &need, &error), "plan", text);
    ck_part part = {.struct_size = sizeof part, .n_part = PARTS, .call = &call};
    ADD_LATER(&part);
    part.scratch = room(need.scratch_bytes);
    part.packed = room(need.packed_bytes);
    for (part.part = 0; need.packed_bytes > 0 && part.part < PARTS; part.part++) {
        require(kernel->pack(kernel->self, &part), "pack", "");
    }
    for (part.phase = 0; part.phase < need.n_phase; part.phase++) {
        for (part.part = 0; part.part < PARTS; part.part++) {
            require(kernel->run(kernel->self, &part), "run", "");
        }
    }
    for (int i = 0; i < n_output; i++) {
        give(output[i]);
    }
    for (int i = 0; i < n_state; i++) {
        give(state[i]);
    }
    return 0;
}
