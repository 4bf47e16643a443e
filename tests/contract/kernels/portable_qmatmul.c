/* org.example.qmatmul/1 on the kernel ABI: weights are packed once, and each call has two phases.
 *
 *   pack     Q8_0 or Q4_0 rows -> for each block of 32 inputs, one float scale and 32 int8 for each of the N outputs
 *   phase 0  x -> int8 blocks in scratch, a part takes rows
 *   phase 1  integer products, a part takes outputs
 *
 * It shows that packed constants, phases with a barrier, scratch, attributes and an optional operand carry a quantised
 * product. It is portable, not fast. */
#include "conifer_kernel.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { X, WEIGHT, BIAS, N_INPUT };
enum { BLOCK = 32 };

typedef struct { /* the packed form of one block, and that of 32 activations */
    float scale;
    int8_t value[BLOCK];
} block;

#define BAD(...)                                                                                                       \
    do {                                                                                                               \
        snprintf(err->text, err->text_capacity, __VA_ARGS__);                                                          \
        return CK_BAD_SHAPE;                                                                                           \
    } while (0)

static ck_status check(const ck_call *c, ck_error *err) {
    if (c->n_input != N_INPUT || c->n_state != 0 || c->n_output != 1 || c->n_int != 1 || c->n_real != 1) {
        BAD("expected 3 inputs, no state, 1 output, 1 integer and 1 real attribute");
    }
    if (c->int_attr[0] < 0 || c->int_attr[0] > 1) {
        BAD("activation is %lld, expected 0 or 1", (long long)c->int_attr[0]);
    }
    const ck_tensor *x = c->input[X], *w = c->input[WEIGHT], *b = c->input[BIAS], *y = c->output[0];
    if (x == NULL || w == NULL) {
        BAD("%s is missing", x == NULL ? "x" : "weight");
    }
    if (x->rank != 2 || w->rank != 2 || y->rank != 2 || (b != NULL && b->rank != 1)) {
        BAD("ranks of x, weight, y are %u, %u, %u, expected 2; of bias 1", x->rank, w->rank, y->rank);
    }
    if (x->dtype != CK_F32 || y->dtype != CK_F32 || (b != NULL && b->dtype != CK_F32)) {
        BAD("x, bias and y are f32");
    }
    if (w->dtype != CK_Q8_0 && w->dtype != CK_Q4_0) {
        BAD("weight has dtype %u, expected q8_0 or q4_0", w->dtype);
    }
    if (x->dim[1] != w->dim[1] || x->dim[1] % BLOCK != 0) {
        BAD("x has %lld inputs, weight %lld; a multiple of 32 is due", (long long)x->dim[1], (long long)w->dim[1]);
    }
    if (y->dim[0] != x->dim[0] || y->dim[1] != w->dim[0] || (b != NULL && b->dim[0] != w->dim[0])) {
        BAD("y is [%lld, %lld], expected [%lld, %lld], and bias [%lld]", (long long)y->dim[0], (long long)y->dim[1],
            (long long)x->dim[0], (long long)w->dim[0], (long long)w->dim[0]);
    }
    return CK_OK;
}

static ck_status CK_CALL supports(const void *self, const ck_call *call, ck_error *err) {
    (void)self;
    return check(call, err);
}

static ck_status CK_CALL plan(const void *self, const ck_call *c, uint32_t max_part, ck_need *need, ck_error *err) {
    (void)self, (void)max_part;
    ck_status status = check(c, err);
    if (status == CK_OK) {
        const uint64_t n_block = (uint64_t)(c->input[X]->dim[1] / BLOCK);
        need->n_phase = 2;
        need->scratch_bytes = (uint64_t)c->input[X]->dim[0] * n_block * sizeof(block);
        need->packed_bytes = (uint64_t)c->input[WEIGHT]->dim[0] * n_block * sizeof(block);
        if (CK_HAS(need, ck_need, flags)) {
            need->flags |= CK_SPLIT_EXACT;
        }
    }
    return status;
}

static float from_half(const uint8_t *bytes) {
    const uint32_t h = (uint32_t)(bytes[0] | bytes[1] << 8);
    const int exponent = (int)(h >> 10 & 31), fraction = (int)(h & 1023);
    const float size = exponent == 0 ? ldexpf((float)fraction, -24) : ldexpf((float)(fraction | 1024), exponent - 25);
    return h & 0x8000 ? -size : size;
}

static void unpack(uint32_t dtype, const uint8_t *from, block *to) {
    to->scale = from_half(from);
    for (int i = 0; i < BLOCK; i++) {
        if (dtype == CK_Q8_0) {
            to->value[i] = (int8_t)from[2 + i];
        } else {
            const uint8_t pair = from[2 + i % 16];
            to->value[i] = (int8_t)((i < 16 ? pair & 15 : pair >> 4) - 8);
        }
    }
}

static ck_status CK_CALL pack(const void *self, const ck_part *p) {
    (void)self;
    const ck_tensor *w = p->call->input[WEIGHT];
    const int64_t N = w->dim[0], n_block = w->dim[1] / BLOCK;
    const int64_t first = N * p->part / p->n_part, end = N * (p->part + 1) / p->n_part;
    block *packed = p->packed;
    for (int64_t n = first; n < end; n++) {
        for (int64_t b = 0; b < n_block; b++) {
            const uint8_t *from = (const uint8_t *)w->data + n * w->stride_bytes[0] + b * w->stride_bytes[1];
            unpack(w->dtype, from, &packed[n * n_block + b]);
        }
    }
    return CK_OK;
}

static void quantise(const float *x, block *to) {
    float most = 0.0f;
    for (int i = 0; i < BLOCK; i++) {
        most = fmaxf(most, fabsf(x[i]));
    }
    to->scale = most / 127.0f;
    for (int i = 0; i < BLOCK; i++) {
        /* a NaN or an infinity makes the scale one, and the numbers beside it do not matter any more */
        to->value[i] = most > 0.0f && isfinite(x[i]) ? (int8_t)lrintf(x[i] / most * 127.0f) : 0;
        if (!isfinite(x[i])) {
            to->scale = NAN;
        }
    }
}

static void quantise_rows(const ck_part *p) {
    const ck_tensor *x = p->call->input[X];
    const int64_t n_row = p->call->seq_start[p->call->n_seq], n_block = x->dim[1] / BLOCK;
    block *quantised = p->scratch;
    for (int64_t t = n_row * p->part / p->n_part; t < n_row * (p->part + 1) / p->n_part; t++) {
        const float *row = (const float *)((const char *)x->data + t * x->stride_bytes[0]);
        for (int64_t b = 0; b < n_block; b++) {
            quantise(row + b * BLOCK, &quantised[t * n_block + b]);
        }
    }
}

static float product(const block *a, const block *b, int64_t n_block) {
    float sum = 0.0f;
    for (int64_t i = 0; i < n_block; i++) {
        int32_t dot = 0;
        for (int k = 0; k < BLOCK; k++) {
            dot += a[i].value[k] * b[i].value[k];
        }
        sum += a[i].scale * b[i].scale * (float)dot;
    }
    return sum;
}

static void multiply(const ck_part *p) {
    const ck_call *c = p->call;
    const ck_tensor *y = c->output[0];
    const int64_t T = y->dim[0], N = y->dim[1], n_row = c->seq_start[c->n_seq], n_block = c->input[X]->dim[1] / BLOCK;
    const block *x = p->scratch, *w = p->packed;
    const float *bias = c->input[BIAS] ? c->input[BIAS]->data : NULL;
    for (int64_t t = 0; t < T; t++) {
        float *row = (float *)((char *)y->data + t * y->stride_bytes[0]);
        for (int64_t n = N * p->part / p->n_part; n < N * (p->part + 1) / p->n_part; n++) {
            float sum = 0.0f;
            if (t < n_row) {
                sum = (float)c->real_attr[0] * product(&x[t * n_block], &w[n * n_block], n_block) + (bias ? bias[n] : 0);
                sum = c->int_attr[0] && sum < 0.0f ? 0.0f : sum;
            }
            row[n] = sum;
        }
    }
}

static ck_status CK_CALL run(const void *self, const ck_part *p) {
    (void)self;
    p->phase == 0 ? quantise_rows(p) : multiply(p);
    return CK_OK;
}

static const ck_kernel KERNEL = {sizeof(ck_kernel), 0, "org.example.qmatmul/1", NULL, supports, plan, pack, run};
static const ck_kernel *const KERNELS[] = {&KERNEL};
static const ck_plugin PLUGIN = {sizeof(ck_plugin), CK_ABI_MINOR, "org.example.portable-qmatmul", "1.0.0", 1, 0, KERNELS};

CK_EXPORT const ck_plugin *CK_CALL conifer_kernel_entry_v1(const ck_host *host, ck_error *err) {
    (void)host, (void)err;
    return &PLUGIN;
}
