/* host_shim.c: runs a plugin's kernel as a ggml custom op, one graph node per phase.
 *
 * ggml.h is not included: the callback needs only (void *, int, int, void *), because Python fills every ck_call with
 * data pointers after the graph is allocated. So this library outlives ggml versions. */
#define _POSIX_C_SOURCE 199309L /* clock_gettime */
#include "conifer_kernel.h"

#include <stdbool.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { SUMS = 12 };
#define CK_LOOPS "peak_loops.h"
#include "conifer_simd.h"

/* What one graph node runs. Owned by Python, alive as long as its graph. native_api/host.py mirrors this struct and
 * compares its size with conifer_task_size(). */
typedef struct conifer_task {
    const ck_kernel *kernel;
    const ck_call   *call;
    void            *scratch;
    void            *packed;
    int32_t         *failure; /* [2], shared by a graph: status of the first kernel that failed, and its index */
    uint32_t         phase;
    int32_t          index;
} conifer_task;

CK_EXPORT uint32_t conifer_task_size(void) { return (uint32_t)sizeof(conifer_task); }

/* [run] A ggml_custom_op_t. After a failure the rest of the graph is skipped: its inputs would be garbage. */
CK_EXPORT void conifer_run_phase(void *dst, int ith, int nth, void *userdata) {
    const conifer_task *task = userdata;
    (void)dst;
    if (__atomic_load_n(&task->failure[0], __ATOMIC_RELAXED) != CK_OK) {
        return;
    }
    ck_part part = {
        .struct_size = sizeof part,
        .part = (uint32_t)ith,
        .n_part = (uint32_t)nth,
        .phase = task->phase,
        .call = task->call,
        .scratch = task->scratch,
        .packed = task->packed,
    };
    ck_status status = task->kernel->run(task->kernel->self, &part);
    if (status != CK_OK) {
        int32_t none = CK_OK;
        if (__atomic_compare_exchange_n(&task->failure[0], &none, status, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
            task->failure[1] = task->index;
        }
    }
}

/* [any] A ggml_abort_callback: true ends the graph before its next node. userdata is an int32_t flag; a failed kernel
 * counts as well, so the products behind it are not computed for nothing. */
CK_EXPORT bool conifer_should_stop(void *userdata) {
    return __atomic_load_n((int32_t *)userdata, __ATOMIC_RELAXED) != 0;
}

/* Notes when each node of a graph was done, for engine/profile.py. Owned by Python; host.py mirrors it. */
typedef struct conifer_stopwatch {
    const int32_t *failure; /* as in conifer_task */
    int64_t       *done_ns; /* [capacity] CLOCK_MONOTONIC after each computed node, in order */
    uint32_t       n;
    uint32_t       capacity;
} conifer_stopwatch;

/* [one thread] A ggml_abort_callback: ggml calls it on its first thread after every node. */
CK_EXPORT bool conifer_note_time(void *userdata) {
    conifer_stopwatch *watch = userdata;
    struct timespec    now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (watch->n < watch->capacity) {
        watch->done_ns[watch->n++] = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    }
    return __atomic_load_n(watch->failure, __ATOMIC_RELAXED) != 0;
}

/* [any] A ggml_abort_callback_t: the process is about to die of an assertion; leave its text on stderr, where the
 * parent process looks for last words. */
CK_EXPORT void conifer_report_abort(const char *message) {
    static const char prefix[] = "ggml: ";
    ssize_t written = write(STDERR_FILENO, prefix, sizeof prefix - 1);
    written += write(STDERR_FILENO, message, strlen(message));
    written += write(STDERR_FILENO, "\n", 1);
    (void)written;
}

/* [any] The instruction set that kernels take here; CONIFER_ISA can ask for a smaller one. */
CK_EXPORT const char *conifer_instruction_set(void) {
    switch (ck_instruction_set()) {
    case CK_SET_AVX512:
        return "avx512";
    case CK_SET_AVXVNNI:
        return "avxvnni";
    case CK_SET_AVX2:
        return "avx2";
    case CK_SET_DOTPROD:
        return "dotprod";
    default:
#if defined(__aarch64__)
        return "neon";
#else
        return "scalar";
#endif
    }
}

/* [any] n rounds of independent float32 multiply-adds in registers, on the instruction set that kernels take; returns how many
 * there were. `plugins bench` times it as the peak of this processor. */
CK_EXPORT int64_t conifer_multiply_add(int64_t n) {
    float   left = 0.5f; /* a factor below 1: nothing overflows, and the result depends on every round */
    int64_t made = 0;
    CK_DISPATCH(multiply_add, n, &left, &made);
    return left > 0 ? made : 0;
}
