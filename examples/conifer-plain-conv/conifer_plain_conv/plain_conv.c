/* conifer.causal_conv/1 in plain C: the smallest honest kernel, without vectors.
 *
 *     y[t,c] = act(bias[c] + sum over j of weight[c,j] * x[t-K+1+j, c])       before the first token stands the carry
 */
#include "conifer_check.h"
#include "conifer_kernel.h"

#include <math.h>

enum { X, WEIGHT, BIAS, N_INPUT };

static ck_status CK_CALL supports(const void *self, const ck_call *c, ck_error *err) {
    (void)self;
    CK_TRY(ck_expect_counts(c, N_INPUT, 1, 1, 0, err));
    CK_TRY(ck_expect_choice(c, 0, "activation", 2, err));
    CK_TRY(ck_expect_rank(c->input[X], "x", 2, 0, err));
    CK_TRY(ck_expect_rank(c->input[WEIGHT], "weight", 2, 0, err));
    CK_TRY(ck_expect_rank(c->input[BIAS], "bias", 1, 1, err));
    CK_TRY(ck_expect_rank(c->state[0], "conv", 3, 0, err));
    CK_TRY(ck_expect_rank(c->output[0], "y", 2, 0, err));
    const int64_t T = c->input[X]->dim[0], C = c->input[X]->dim[1], K = c->input[WEIGHT]->dim[1];
    if (K < 2) {
        return ck_refuse(err, "weight has %lld taps on axis 1, at least 2 are expected", (long long)K);
    }
    CK_TRY(ck_expect_sizes(c->input[WEIGHT], "weight", (const int64_t[]){C, K}, err));
    CK_TRY(ck_expect_sizes(c->input[BIAS], "bias", (const int64_t[]){C}, err));
    CK_TRY(ck_expect_sizes(c->state[0], "conv", (const int64_t[]){c->state[0]->dim[0], K - 1, C}, err));
    return ck_expect_sizes(c->output[0], "y", (const int64_t[]){T, C}, err);
}

static ck_status CK_CALL plan(const void *self, const ck_call *c, uint32_t max_part, ck_need *need, ck_error *err) {
    (void)max_part;
    need->n_phase = 1;
    need->scratch_bytes = 0;
    need->packed_bytes = 0;
    return supports(self, c, err);
}

/* The input at token t of a sequence that starts at `start`, or what the carry keeps from before it. */
static float input_at(const ck_call *c, const float *carry, int64_t start, int64_t t, int64_t i) {
    const int64_t C = c->input[X]->dim[1], K = c->input[WEIGHT]->dim[1];
    return t >= start ? ck_at(c->input[X], t)[i] : carry[(t - start + K - 1) * C + i];
}

/* One channel of one sequence of n tokens. */
static void convolve(const ck_call *c, float *carry, int64_t i, int64_t start, int64_t n) {
    const int64_t C = c->input[X]->dim[1], K = c->input[WEIGHT]->dim[1];
    const float *weight = (const float *)c->input[WEIGHT]->data + i * K;
    const float bias = c->input[BIAS] != NULL ? ((const float *)c->input[BIAS]->data)[i] : 0.0f;
    for (int64_t t = start; t < start + n; t++) {
        float y = bias;
        for (int64_t j = 0; j < K; j++) {
            y += weight[j] * input_at(c, carry, start, t - K + 1 + j, i);
        }
        ck_at(c->output[0], t)[i] = c->int_attr[0] ? y / (1.0f + expf(-y)) : y;
    }
    for (int64_t j = 0; j < K - 1; j++) { /* oldest first: what is read is never yet overwritten */
        carry[j * C + i] = input_at(c, carry, start, start + n - K + 1 + j, i);
    }
}

static ck_status CK_CALL run(const void *self, const ck_part *p) {
    (void)self;
    const ck_call *c = p->call;
    const int64_t C = c->input[X]->dim[1];
    const int64_t first = ck_share(C, p->part, p->n_part), end = ck_share(C, p->part + 1, p->n_part);
    for (int64_t i = first; i < end; i++) {
        for (uint32_t s = 0; s < c->n_seq; s++) {
            const int64_t start = c->seq_start[s], n = c->seq_start[s + 1] - start;
            if (n > 0) { /* a sequence without tokens may have no slot */
                convolve(c, ck_at(c->state[0], c->slot[s]), i, start, n);
            }
        }
        for (int64_t t = c->seq_start[c->n_seq]; t < c->output[0]->dim[0]; t++) {
            ck_at(c->output[0], t)[i] = 0.0f; /* rows that pad the call */
        }
    }
    return CK_OK;
}

/* A preference below 0: where a faster plugin is registered as well, that one is asked first. */
static const ck_kernel KERNEL = {sizeof(ck_kernel), -10, "conifer.causal_conv/1", NULL, supports, plan, NULL, run};
static const ck_kernel *const KERNELS[] = {&KERNEL};
static const ck_plugin PLUGIN = {sizeof(ck_plugin), CK_ABI_MINOR, "org.example.plain-conv", "0.1.0", 1, 0, KERNELS};

CK_EXPORT const ck_plugin *CK_CALL conifer_kernel_entry_v1(const ck_host *host, ck_error *err) {
    (void)host, (void)err;
    return &PLUGIN;
}
