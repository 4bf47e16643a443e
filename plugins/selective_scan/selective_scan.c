/* conifer.selective_scan/1: Mamba-1's selective scan. Gu & Dao 2023, arXiv:2312.00752, algorithm 2.
 *
 *     delta = clamp(softplus(dt + dt_bias));  h = exp(delta A) h + delta B x;  y = (C h + D x) silu(z)
 *
 * Parts share out the channels. A is packed once, in blocks of channels and times log2(e), so that the decay is a power of
 * two. The loops are in selective_scan_loops.h, written once for every instruction set. */
#include "conifer_check.h"
#include "conifer_kernel.h"

#include <string.h>

enum { X, DT, A, B, C, DT_BIAS, D, Z, N_INPUT };
enum {
    BLOCK = 16, /* channels that are packed together: the widest vector */
    SPAN = 16,  /* tokens that all blocks pass before the next ones */
    ABREAST = 4 /* vectors of channels or of N that go through a long chain of steps together */
};

typedef struct {
    const ck_tensor *x, *dt, *B, *C, *z, *y; /* z may be NULL */
    const float     *a, *dt_bias, *d;        /* a packed; dt_bias and d may be NULL */
    int64_t          N;
    float            dt_min, dt_max;
    int              softplus;
} scan_call;

#define CK_LOOPS "selective_scan_loops.h"
#include "conifer_simd.h"

static int64_t blocks_of(int64_t n) { return (n + BLOCK - 1) / BLOCK; }

static ck_status check(const ck_call *c, ck_error *err) {
    static const char *const name[N_INPUT] = {"x", "dt", "A", "B", "C", "dt_bias", "D", "z"};
    static const uint32_t    rank[N_INPUT] = {2, 2, 2, 2, 2, 1, 1, 2};
    CK_TRY(ck_expect_counts(c, N_INPUT, 1, 1, 2, err));
    CK_TRY(ck_expect_choice(c, 0, "dt_softplus", 2, err));
    for (int i = 0; i < N_INPUT; i++) {
        CK_TRY(ck_expect_rank(c->input[i], name[i], rank[i], i >= DT_BIAS, err));
    }
    CK_TRY(ck_expect_rank(c->state[0], "ssm", 3, 0, err));
    CK_TRY(ck_expect_rank(c->output[0], "y", 2, 0, err));
    const int64_t T = c->input[X]->dim[0], M = c->input[X]->dim[1], N = c->input[A]->dim[1];
    const int64_t size[N_INPUT][2] = {{T, M}, {T, M}, {M, N}, {T, N}, {T, N}, {M}, {M}, {T, M}};
    for (int i = 0; i < N_INPUT; i++) {
        CK_TRY(ck_expect_sizes(c->input[i], name[i], size[i], err));
    }
    CK_TRY(ck_expect_sizes(c->state[0], "ssm", (const int64_t[]){c->state[0]->dim[0], M, N}, err));
    return ck_expect_sizes(c->output[0], "y", size[X], err);
}

static ck_status CK_CALL supports(const void *self, const ck_call *call, ck_error *err) {
    (void)self;
    return check(call, err);
}

static ck_status CK_CALL plan(const void *self, const ck_call *c, uint32_t max_part, ck_need *need, ck_error *err) {
    (void)self;
    CK_TRY(check(c, err));
    const int64_t M = c->input[A]->dim[0], N = c->input[A]->dim[1];
    need->n_phase = 1;
    ck_promise(need, CK_SPLIT_EXACT);
    need->scratch_bytes = sizeof(float) * (uint64_t)(max_part * N * BLOCK);
    need->packed_bytes = sizeof(float) * (uint64_t)(blocks_of(M) * BLOCK * N);
    return CK_OK;
}

static ck_status CK_CALL pack(const void *self, const ck_part *part) {
    (void)self;
    const ck_tensor *a = part->call->input[A];
    const int64_t M = a->dim[0], N = a->dim[1], end = ck_share(blocks_of(M), part->part + 1, part->n_part);
    const float *from = a->data;
    for (int64_t b = ck_share(blocks_of(M), part->part, part->n_part); b < end; b++) {
        float *to = (float *)part->packed + b * N * BLOCK;
        for (int64_t i = 0; i < N * BLOCK; i++) {
            const int64_t channel = b * BLOCK + i % BLOCK;
            to[i] = channel < M ? from[channel * N + i / BLOCK] * 1.44269504088896341f : 0.0f;
        }
    }
    return CK_OK;
}

static const float *constant(const ck_tensor *t) { return t != NULL ? (const float *)t->data : NULL; }

static ck_status CK_CALL run(const void *self, const ck_part *part) {
    (void)self;
    const ck_call *c = part->call;
    const int64_t M = c->input[A]->dim[0], N = c->input[A]->dim[1], blocks = blocks_of(M);
    const scan_call s = {
        .x = c->input[X], .dt = c->input[DT], .B = c->input[B], .C = c->input[C], .z = c->input[Z], .y = c->output[0],
        .a = part->packed, .dt_bias = constant(c->input[DT_BIAS]), .d = constant(c->input[D]), .N = N,
        .dt_min = (float)c->real_attr[0], .dt_max = (float)c->real_attr[1], .softplus = c->int_attr[0] != 0,
    };
    const int64_t first = BLOCK * ck_share(blocks, part->part, part->n_part);
    int64_t       end = BLOCK * ck_share(blocks, part->part + 1, part->n_part);
    end = end < M ? end : M;
    if (first >= end) {
        return CK_OK;
    }
    float *turned = (float *)part->scratch + part->part * N * BLOCK;
    for (uint32_t i = 0; i < c->n_seq; i++) {
        const int64_t start = c->seq_start[i], n = c->seq_start[i + 1] - start;
        if (n > 0) {
            CK_DISPATCH(scan_sequence, &s, first, end, start, n, ck_at(c->state[0], c->slot[i]), turned);
        }
    }
    for (int64_t t = c->seq_start[c->n_seq]; t < s.y->dim[0]; t++) {
        memset(ck_at(s.y, t) + first, 0, (size_t)(end - first) * sizeof(float));
    }
    return CK_OK;
}

static const ck_kernel KERNEL = {sizeof(ck_kernel), 0, "conifer.selective_scan/1", NULL, supports, plan, pack, run};
static const ck_kernel *const KERNELS[] = {&KERNEL};
static const ck_plugin PLUGIN = {sizeof(ck_plugin), CK_ABI_MINOR, "org.conifer.selective-scan", "0.1.0", 1, 0, KERNELS};

CK_EXPORT const ck_plugin *CK_CALL conifer_kernel_entry_v1(const ck_host *host, ck_error *err) {
    (void)host, (void)err;
    return &PLUGIN;
}
