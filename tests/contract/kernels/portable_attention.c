/* org.example.attention/1 on the kernel ABI: keys, values and the length of a sequence are carry pools.
 *
 *   phase 0  append k and v to the pools, a part takes tokens
 *   phase 1  attend, a part takes pairs of token and head; every key of the call is in place by then
 *   phase 2  advance the lengths: no part of phase 1 may see that early
 *
 * It shows that carry pools of several dtypes, optional operands and phases carry attention. Portable, not fast. */
#include "conifer_kernel.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { Q, K, V, DISTANCE_BIAS, SINK, GATE, N_INPUT };
enum { KEYS, VALUES, LENGTH, N_STATE };
static const char *const NAME[N_INPUT + N_STATE + 1] = {"q", "k", "v", "bias", "sink", "gate", "keys", "values", "length", "y"};

#define BAD(...)                                                                                                       \
    do {                                                                                                               \
        snprintf(err->text, err->text_capacity, __VA_ARGS__);                                                          \
        return CK_BAD_SHAPE;                                                                                           \
    } while (0)

static ck_status check_operand(const char *name, const ck_tensor *t, uint32_t dtype, uint32_t rank, const int64_t *want,
                               ck_error *err) {
    if (t->rank != rank || t->dtype != dtype) {
        BAD("%s has rank %u and dtype %u, expected %u and %u", name, t->rank, t->dtype, rank, dtype);
    }
    for (uint32_t i = 0; i < rank; i++) {
        if (t->dim[i] != want[i]) {
            BAD("%s axis %u has size %lld, expected %lld", name, i, (long long)t->dim[i], (long long)want[i]);
        }
    }
    return CK_OK;
}

static ck_status check(const ck_call *c, ck_error *err) {
    if (c->n_input != N_INPUT || c->n_state != N_STATE || c->n_output != 1 || c->n_int != 0 || c->n_real != 1) {
        BAD("expected 6 inputs, 3 states, 1 output and 1 real attribute");
    }
    for (int i = 0; i < SINK; i++) {
        if (c->input[i] == NULL || c->input[i]->rank != (i == DISTANCE_BIAS ? 2u : 3u)) {
            BAD("%s is missing or has a wrong rank", NAME[i]);
        }
    }
    const int64_t T = c->input[Q]->dim[0], H = c->input[Q]->dim[1], P = c->input[Q]->dim[2];
    const int64_t J = c->input[K]->dim[1], S = c->input[V]->dim[2], L = c->input[DISTANCE_BIAS]->dim[1];
    if (J < 1 || H % J != 0) {
        BAD("q has %lld heads, not a multiple of k's %lld", (long long)H, (long long)J);
    }
    const int64_t want[N_INPUT + N_STATE + 1][4] = {{T, H, P}, {T, J, P}, {T, J, S}, {H, L}, {H}, {T, H, S},
                                                    {0, L, J, P}, {0, L, J, S}, {0, 1}, {T, H, S}};
    static const uint32_t rank[N_INPUT + N_STATE + 1] = {3, 3, 3, 2, 1, 3, 4, 4, 2, 3};
    for (int i = 0; i < N_INPUT + N_STATE + 1; i++) {
        const ck_tensor *t = i < N_INPUT ? c->input[i] : i < N_INPUT + N_STATE ? c->state[i - N_INPUT] : c->output[0];
        if (t == NULL) {
            continue;
        }
        int64_t expected[4];
        memcpy(expected, want[i], sizeof expected);
        if (i >= N_INPUT && i < N_INPUT + N_STATE && t->rank > 0) {
            expected[0] = t->dim[0]; /* any number of slots */
        }
        ck_status status = check_operand(NAME[i], t, i == N_INPUT + LENGTH ? CK_I32 : CK_F32, rank[i], expected, err);
        if (status != CK_OK) {
            return status;
        }
    }
    return CK_OK;
}

static ck_status CK_CALL supports(const void *self, const ck_call *call, ck_error *err) {
    (void)self;
    return check(call, err);
}

static ck_status CK_CALL plan(const void *self, const ck_call *c, uint32_t max_part, ck_need *need, ck_error *err) {
    (void)self;
    ck_status status = check(c, err);
    if (status == CK_OK) {
        need->n_phase = 3;
        need->scratch_bytes = (uint64_t)max_part * (uint64_t)c->input[DISTANCE_BIAS]->dim[1] * sizeof(float);
        need->packed_bytes = 0;
    }
    return status;
}

static const float *row(const ck_tensor *t, int64_t i, int64_t j) {
    return (const float *)((const char *)t->data + i * t->stride_bytes[0] + j * t->stride_bytes[1]);
}

/* Row (position, j) of a slot of a pool; inside a slot everything is dense. */
static float *pool_row(const ck_tensor *pool, int32_t slot, int64_t position, int64_t j) {
    float *base = (float *)((char *)pool->data + slot * pool->stride_bytes[0]);
    return base + (position * pool->dim[2] + j) * pool->dim[3];
}

static int32_t *length_of(const ck_call *c, int32_t slot) {
    return (int32_t *)((char *)c->state[LENGTH]->data + slot * c->state[LENGTH]->stride_bytes[0]);
}

static uint32_t sequence_of(const ck_call *c, int64_t t) {
    uint32_t s = 0;
    while (t >= c->seq_start[s + 1]) {
        s++;
    }
    return s;
}

static int64_t position_of(const ck_call *c, uint32_t s, int64_t t) {
    return *length_of(c, c->slot[s]) + t - c->seq_start[s];
}

static ck_status append(const ck_part *p) {
    const ck_call *c = p->call;
    const int64_t n = c->seq_start[c->n_seq], J = c->input[K]->dim[1];
    for (int64_t t = n * p->part / p->n_part; t < n * (p->part + 1) / p->n_part; t++) {
        const uint32_t s = sequence_of(c, t);
        const int64_t at = position_of(c, s, t);
        if (at < 0 || at >= c->input[DISTANCE_BIAS]->dim[1]) {
            return CK_INTERNAL; /* the host owes room for the tokens of the call */
        }
        for (int64_t j = 0; j < J; j++) {
            memcpy(pool_row(c->state[KEYS], c->slot[s], at, j), row(c->input[K], t, j), (size_t)c->input[K]->dim[2] * 4);
            memcpy(pool_row(c->state[VALUES], c->slot[s], at, j), row(c->input[V], t, j), (size_t)c->input[V]->dim[2] * 4);
        }
    }
    return CK_OK;
}

static float dot(const float *a, const float *b, int64_t n) {
    float sum = 0.0f;
    for (int64_t i = 0; i < n; i++) {
        sum += a[i] * b[i];
    }
    return sum;
}

static void attend(const ck_call *c, int64_t t, int64_t h, float *weight) {
    const uint32_t s = sequence_of(c, t);
    const int64_t P = c->input[Q]->dim[2], S = c->input[V]->dim[2], last = position_of(c, s, t);
    const int64_t j = h / (c->input[Q]->dim[1] / c->input[K]->dim[1]);
    const float *bias = row(c->input[DISTANCE_BIAS], h, 0);
    const float *sink = c->input[SINK] ? c->input[SINK]->data : NULL;
    float most = sink ? sink[h] : -INFINITY, total = 0.0f;
    for (int64_t i = 0; i <= last; i++) {
        const float *key = pool_row(c->state[KEYS], c->slot[s], i, j);
        weight[i] = (float)c->real_attr[0] * dot(row(c->input[Q], t, h), key, P) + bias[last - i];
        most = fmaxf(most, weight[i]);
    }
    float *y = (float *)(uintptr_t)row(c->output[0], t, h);
    memset(y, 0, (size_t)S * sizeof(float));
    for (int64_t i = 0; i <= last; i++) {
        const float w = expf(weight[i] - most), *value = pool_row(c->state[VALUES], c->slot[s], i, j);
        total += w;
        for (int64_t v = 0; v < S; v++) {
            y[v] += w * value[v];
        }
    }
    total += sink ? expf(sink[h] - most) : 0.0f;
    for (int64_t v = 0; v < S; v++) {
        y[v] /= total;
        if (c->input[GATE]) {
            y[v] /= 1.0f + expf(-row(c->input[GATE], t, h)[v]);
        }
    }
}

static void attend_part(const ck_part *p) {
    const ck_call *c = p->call;
    const int64_t T = c->input[Q]->dim[0], H = c->input[Q]->dim[1], L = c->input[DISTANCE_BIAS]->dim[1];
    float *weight = (float *)p->scratch + p->part * L;
    for (int64_t i = T * H * p->part / p->n_part; i < T * H * (p->part + 1) / p->n_part; i++) {
        if (i / H < c->seq_start[c->n_seq]) {
            attend(c, i / H, i % H, weight);
        } else {
            memset((void *)(uintptr_t)row(c->output[0], i / H, i % H), 0, (size_t)c->output[0]->dim[2] * sizeof(float));
        }
    }
}

static void advance(const ck_part *p) {
    const ck_call *c = p->call;
    for (uint32_t s = p->part; s < c->n_seq; s += p->n_part) {
        if (c->seq_start[s] < c->seq_start[s + 1]) {
            *length_of(c, c->slot[s]) += c->seq_start[s + 1] - c->seq_start[s];
        }
    }
}

static ck_status CK_CALL run(const void *self, const ck_part *p) {
    (void)self;
    switch (p->phase) {
    case 0:
        return append(p);
    case 1:
        attend_part(p);
        return CK_OK;
    default:
        advance(p);
        return CK_OK;
    }
}

static const ck_kernel KERNEL = {sizeof(ck_kernel), 0, "org.example.attention/1", NULL, supports, plan, NULL, run};
static const ck_kernel *const KERNELS[] = {&KERNEL};
static const ck_plugin PLUGIN = {sizeof(ck_plugin), CK_ABI_MINOR, "org.example.portable-attention", "1.0.0", 1, 0, KERNELS};

CK_EXPORT const ck_plugin *CK_CALL conifer_kernel_entry_v1(const ck_host *host, ck_error *err) {
    (void)host, (void)err;
    return &PLUGIN;
}
