/* conifer.causal_conv/1: a depthwise convolution over time, with bias and activation. Mamba, arXiv:2312.00752, section 3.4.
 *
 *     y[t,c] = act(bias[c] + sum_k weight[c,k] x[t-K+1+k, c]);  before the first token stands the carry, the last K-1 inputs
 *
 * Parts share out the channels. Weights are packed once, taps first, so that vectors run over channels. */
#include "conifer_check.h"
#include "conifer_kernel.h"

#include <string.h>

enum { X, WEIGHT, BIAS, N_INPUT };
enum {
    TOKENS = 4,    /* that go over the channels together */
    MOST_TAPS = 32
};

typedef struct {
    const ck_tensor *x, *y;
    const float     *weight; /* packed: [K + 1][width], the bias as the last row */
    int64_t          C, K, width;
    int              silu;
} conv_call;

#define CK_LOOPS "causal_conv_loops.h"
#include "conifer_simd.h"

static int64_t whole_vectors(int64_t n) { return (n + 15) / 16 * 16; }

static ck_status check(const ck_call *c, ck_error *err) {
    CK_TRY(ck_expect_counts(c, N_INPUT, 1, 1, 0, err));
    CK_TRY(ck_expect_choice(c, 0, "activation", 2, err));
    CK_TRY(ck_expect_rank(c->input[X], "x", 2, 0, err));
    CK_TRY(ck_expect_rank(c->input[WEIGHT], "weight", 2, 0, err));
    CK_TRY(ck_expect_rank(c->input[BIAS], "bias", 1, 1, err));
    CK_TRY(ck_expect_rank(c->state[0], "conv", 3, 0, err));
    CK_TRY(ck_expect_rank(c->output[0], "y", 2, 0, err));
    const int64_t T = c->input[X]->dim[0], C = c->input[X]->dim[1], K = c->input[WEIGHT]->dim[1];
    if (K < 2) {
        return ck_refuse(err, "weight has %lld taps on axis 1, at least 2 are needed", (long long)K);
    }
    CK_TRY(ck_expect_sizes(c->input[WEIGHT], "weight", (const int64_t[]){C, K}, err));
    CK_TRY(ck_expect_sizes(c->input[BIAS], "bias", (const int64_t[]){C}, err));
    CK_TRY(ck_expect_sizes(c->state[0], "conv", (const int64_t[]){c->state[0]->dim[0], K - 1, C}, err));
    return ck_expect_sizes(c->output[0], "y", (const int64_t[]){T, C}, err);
}

static ck_status CK_CALL supports(const void *self, const ck_call *call, ck_error *err) {
    (void)self;
    CK_TRY(check(call, err));
    if (call->input[WEIGHT]->dim[1] > MOST_TAPS) {
        ck_refuse(err, "weight has %lld taps on axis 1, at most %d are supported", (long long)call->input[WEIGHT]->dim[1], MOST_TAPS);
        return CK_UNSUPPORTED;
    }
    return CK_OK;
}

static ck_status CK_CALL plan(const void *self, const ck_call *c, uint32_t max_part, ck_need *need, ck_error *err) {
    (void)max_part;
    CK_TRY(supports(self, c, err));
    const int64_t C = c->input[WEIGHT]->dim[0], K = c->input[WEIGHT]->dim[1];
    need->n_phase = 1;
    ck_promise(need, CK_SPLIT_EXACT);
    need->scratch_bytes = 0;
    need->packed_bytes = sizeof(float) * (uint64_t)((K + 1) * whole_vectors(C));
    return CK_OK;
}

static ck_status CK_CALL pack(const void *self, const ck_part *part) {
    (void)self;
    const ck_tensor *weight = part->call->input[WEIGHT], *bias = part->call->input[BIAS];
    const int64_t C = weight->dim[0], K = weight->dim[1], width = whole_vectors(C);
    const float *from = weight->data;
    float *to = part->packed;
    const int64_t end = ck_share(width, part->part + 1, part->n_part);
    for (int64_t c = ck_share(width, part->part, part->n_part); c < end; c++) {
        for (int64_t k = 0; k < K; k++) {
            to[k * width + c] = c < C ? from[c * K + k] : 0.0f;
        }
        to[K * width + c] = c < C && bias != NULL ? ((const float *)bias->data)[c] : 0.0f;
    }
    return CK_OK;
}

static ck_status CK_CALL run(const void *self, const ck_part *part) {
    (void)self;
    const ck_call *c = part->call;
    const int64_t C = c->input[WEIGHT]->dim[0], blocks = whole_vectors(C) / 16;
    const conv_call s = {
        .x = c->input[X], .y = c->output[0], .weight = part->packed, .C = C, .K = c->input[WEIGHT]->dim[1],
        .width = whole_vectors(C), .silu = c->int_attr[0] == 1,
    };
    int64_t first = 16 * ck_share(blocks, part->part, part->n_part), end = 16 * ck_share(blocks, part->part + 1, part->n_part);
    end = end < C ? end : C;
    if (first >= end) {
        return CK_OK;
    }
    for (uint32_t i = 0; i < c->n_seq; i++) {
        const int64_t start = c->seq_start[i], n = c->seq_start[i + 1] - start;
        if (n > 0) {
            CK_DISPATCH(conv_sequence, &s, first, end, start, n, ck_at(c->state[0], c->slot[i]));
        }
    }
    for (int64_t t = c->seq_start[c->n_seq]; t < s.y->dim[0]; t++) {
        memset(ck_at(s.y, t) + first, 0, (size_t)(end - first) * sizeof(float));
    }
    return CK_OK;
}

static const ck_kernel KERNEL = {sizeof(ck_kernel), 0, "conifer.causal_conv/1", NULL, supports, plan, pack, run};
static const ck_kernel *const KERNELS[] = {&KERNEL};
static const ck_plugin PLUGIN = {sizeof(ck_plugin), CK_ABI_MINOR, "org.conifer.causal-conv", "0.1.0", 1, 0, KERNELS};

CK_EXPORT const ck_plugin *CK_CALL conifer_kernel_entry_v1(const ck_host *host, ck_error *err) {
    (void)host, (void)err;
    return &PLUGIN;
}
