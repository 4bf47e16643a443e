/* example.my_scan/1: a running average with a decay per channel.
 *
 *     h[c] <- decay[c] h[c] + (1 - decay[c]) x[t,c];   y[t,c] = h[c]
 *
 * Parts share out the channels. The loop is in my_scan_loops.h, written once for every instruction set. */
#include "conifer_check.h"
#include "conifer_kernel.h"

enum { X, DECAY, N_INPUT };

typedef struct {
    const ck_tensor *x, *y;
    const float     *decay;
} scan_call;

#define CK_LOOPS "my_scan_loops.h"
#include "conifer_simd.h"

/* [any] Is this a call of the op as op.toml states it? Every refusal names operand, axis and value. */
static ck_status CK_CALL supports(const void *self, const ck_call *c, ck_error *err) {
    (void)self;
    CK_TRY(ck_expect_counts(c, N_INPUT, 1, 0, 0, err));
    CK_TRY(ck_expect_rank(c->input[X], "x", 2, 0, err));
    CK_TRY(ck_expect_rank(c->input[DECAY], "decay", 1, 0, err));
    CK_TRY(ck_expect_rank(c->state[0], "h", 2, 0, err));
    CK_TRY(ck_expect_rank(c->output[0], "y", 2, 0, err));
    const int64_t T = c->input[X]->dim[0], C = c->input[X]->dim[1];
    CK_TRY(ck_expect_sizes(c->input[DECAY], "decay", (const int64_t[]){C}, err));
    CK_TRY(ck_expect_sizes(c->state[0], "h", (const int64_t[]){c->state[0]->dim[0], C}, err));
    return ck_expect_sizes(c->output[0], "y", (const int64_t[]){T, C}, err);
}

/* [load] What runs need: one phase, no scratch, nothing packed. */
static ck_status CK_CALL plan(const void *self, const ck_call *c, uint32_t max_part, ck_need *need, ck_error *err) {
    (void)max_part;
    need->n_phase = 1;
    need->scratch_bytes = 0;
    need->packed_bytes = 0;
    return supports(self, c, err);
}

/* [run] One part: its share of the channels, in whole vectors, of every sequence. */
static ck_status CK_CALL run(const void *self, const ck_part *p) {
    (void)self;
    const ck_call  *c = p->call;
    const scan_call s = {c->input[X], c->output[0], c->input[DECAY]->data};
    const int64_t   C = s.x->dim[1], blocks = (C + 15) / 16;
    const int64_t   first = 16 * ck_share(blocks, p->part, p->n_part);
    const int64_t   end = 16 * ck_share(blocks, p->part + 1, p->n_part);
    for (uint32_t i = 0; i < c->n_seq; i++) {
        const int64_t start = c->seq_start[i], n = c->seq_start[i + 1] - start;
        if (n > 0) { /* a sequence without tokens may have no slot */
            CK_DISPATCH(scan_channels, &s, first, end < C ? end : C, start, n, ck_at(c->state[0], c->slot[i]));
        }
    }
    for (int64_t t = c->seq_start[c->n_seq]; t < s.y->dim[0]; t++) { /* rows that pad the call are 0 */
        for (int64_t i = first; i < end && i < C; i++) {
            ck_at(s.y, t)[i] = 0.0f;
        }
    }
    return CK_OK;
}

static const ck_kernel KERNEL = {sizeof(ck_kernel), 0, "example.my_scan/1", NULL, supports, plan, NULL, run};
static const ck_kernel *const KERNELS[] = {&KERNEL};
static const ck_plugin PLUGIN = {sizeof(ck_plugin), CK_ABI_MINOR, "org.example.my_scan", "0.1.0", 1, 0, KERNELS};

CK_EXPORT const ck_plugin *CK_CALL conifer_kernel_entry_v1(const ck_host *host, ck_error *err) {
    (void)host, (void)err;
    return &PLUGIN;
}
