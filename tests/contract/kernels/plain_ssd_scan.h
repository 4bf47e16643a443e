/* conifer.ssd_scan/1 as one plain loop: what a correct kernel looks like, and the base of the broken ones beside it.
 *
 * A broken variant defines one of the hooks below and includes this file; without hooks the kernel keeps its contract. */
#include "conifer_kernel.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#ifndef PLUGIN_ID
#define PLUGIN_ID "org.example.plain-ssd-scan"
#endif
#ifndef ABI_ENTRY
#define ABI_ENTRY conifer_kernel_entry_v1
#endif
#ifndef ON_RUN /* runs at the head of every run */
#define ON_RUN(part)
#endif
#ifndef STATE_OF /* what the recurrence keeps of a state element after token t of `length` */
#define STATE_OF(value, t, length, slot, n) (value)
#endif
#ifndef RESULT_OF /* what is stored of output element p */
#define RESULT_OF(value, t, p, n_p) (value)
#endif
#ifndef AFTER_PART /* runs after a part, with the number of heads it owns */
#define AFTER_PART(part, first, end)
#endif
#ifndef SCRATCH_BYTES
#define SCRATCH_BYTES 0
#endif
#ifndef ON_PLAN
#define ON_PLAN(call)
#endif
#ifndef ON_ENTRY
#define ON_ENTRY
#endif
#ifndef ON_SUPPORTS
#define ON_SUPPORTS(call)
#endif
#ifndef ROWS_OF_PADDING /* whether rows past the last sequence are zeroed */
#define ROWS_OF_PADDING 1
#endif
#ifndef SLOT_OF /* which pool row sequence s uses */
#define SLOT_OF(c, s) ((c)->slot[s])
#endif
#ifndef STRIDE_OF_ROWS /* bytes from token to token */
#define STRIDE_OF_ROWS(t) ((t)->stride_bytes[0])
#endif
#ifndef DECAY
#define DECAY(x) expf(x)
#endif
#ifndef PREFERENCE
#define PREFERENCE 0
#endif
#ifndef SOFTPLUS
#define SOFTPLUS(x) ((x) > 20.0f ? (x) : log1pf(expf(x)))
#endif
#ifndef RUN_OF_KERNEL
#define RUN_OF_KERNEL run
#endif

enum { X, DT, A, B, C, DT_BIAS, D, Z, N_INPUT };
static const char *const NAME[N_INPUT] = {"x", "dt", "A", "B", "C", "dt_bias", "D", "z"};
static const uint32_t RANK[N_INPUT] = {3, 2, 1, 3, 3, 1, 1, 3};

#ifndef BAD
#define BAD(...)                                                                                                       \
    do {                                                                                                               \
        snprintf(err->text, err->text_capacity, __VA_ARGS__);                                                          \
        return CK_BAD_SHAPE;                                                                                           \
    } while (0)
#endif

static ck_status check_tensor(const char *name, const ck_tensor *t, uint32_t rank, const int64_t *want, ck_error *err) {
    if (t->rank != rank) {
        BAD("%s has rank %u, expected %u", name, t->rank, rank);
    }
    if (t->dtype != CK_F32) {
        BAD("%s has dtype %u, expected f32", name, t->dtype);
    }
    for (uint32_t i = 0; i < rank; i++) {
        if (t->dim[i] != want[i]) {
            BAD("%s axis %u has size %lld, expected %lld", name, i, (long long)t->dim[i], (long long)want[i]);
        }
    }
    return CK_OK;
}

static ck_status check_call(const ck_call *c, ck_error *err) {
    if (c->n_input != N_INPUT || c->n_state != 1 || c->n_output != 1 || c->n_int != 1 || c->n_real != 2) {
        BAD("expected 8 inputs, 1 state, 1 output, 1 integer and 2 real attributes");
    }
    if (c->int_attr[0] < 0 || c->int_attr[0] > 1) {
        BAD("dt_softplus is %lld, expected 0 or 1", (long long)c->int_attr[0]);
    }
    for (int i = 0; i < N_INPUT; i++) {
        if (c->input[i] == NULL && i < DT_BIAS) {
            BAD("%s is missing", NAME[i]);
        }
        if (c->input[i] != NULL && c->input[i]->rank != RANK[i]) {
            BAD("%s has rank %u, expected %u", NAME[i], c->input[i]->rank, RANK[i]);
        }
    }
    const int64_t T = c->input[X]->dim[0], H = c->input[X]->dim[1], P = c->input[X]->dim[2];
    const int64_t G = c->input[B]->dim[1], N = c->input[B]->dim[2];
    if (G < 1 || H % G != 0) {
        BAD("x axis 1 has %lld heads, not a multiple of B's %lld groups", (long long)H, (long long)G);
    }
    const int64_t want[N_INPUT][3] = {{T, H, P}, {T, H}, {H}, {T, G, N}, {T, G, N}, {H}, {H}, {T, H, P}};
    for (int i = 0; i < N_INPUT; i++) {
        ck_status status = c->input[i] ? check_tensor(NAME[i], c->input[i], RANK[i], want[i], err) : CK_OK;
        if (status != CK_OK) {
            return status;
        }
    }
    const int64_t state[4] = {c->state[0]->rank ? c->state[0]->dim[0] : 0, H, P, N}, out[3] = {T, H, P};
    ck_status status = check_tensor("ssm", c->state[0], 4, state, err);
    return status != CK_OK ? status : check_tensor("y", c->output[0], 3, out, err);
}

static ck_status CK_CALL supports(const void *self, const ck_call *call, ck_error *err) {
    (void)self;
    ON_SUPPORTS(call)
    return check_call(call, err);
}

static ck_status CK_CALL plan(const void *self, const ck_call *call, uint32_t max_part, ck_need *need, ck_error *err) {
    (void)self, (void)max_part;
    ON_PLAN(call)
    need->n_phase = 1;
    need->scratch_bytes = SCRATCH_BYTES;
    need->packed_bytes = 0;
    return check_call(call, err);
}

static const float *row(const ck_tensor *t, int64_t i, int64_t j) {
    return (const float *)((const char *)t->data + i * STRIDE_OF_ROWS(t) + j * t->stride_bytes[1]);
}

static float *out_row(const ck_tensor *t, int64_t i, int64_t j) {
    return (float *)((char *)t->data + i * STRIDE_OF_ROWS(t) + j * t->stride_bytes[1]);
}

static float step_size(const ck_call *c, int64_t t, int64_t h) {
    float dt = row(c->input[DT], t, 0)[h];
    if (c->input[DT_BIAS]) {
        dt += ((const float *)c->input[DT_BIAS]->data)[h];
    }
    if (c->int_attr[0]) {
        dt = SOFTPLUS(dt);
    }
    const float low = (float)c->real_attr[0], high = (float)c->real_attr[1];
    return dt < low ? low : dt > high ? high : dt;
}

/* One head of one sequence: state[P][N] lives in the pool and advances with every token. */
static void scan_head(const ck_call *c, int64_t h, int64_t first, int64_t end, float *state, int32_t slot,
                      const ck_part *part) {
    const int64_t H = c->input[X]->dim[1], P = c->input[X]->dim[2];
    const int64_t G = c->input[B]->dim[1], N = c->input[B]->dim[2], g = h / (H / G);
    const int64_t length = end - first;
    (void)slot, (void)length, (void)part;
    const float a = ((const float *)c->input[A]->data)[h];
    const float d = c->input[D] ? ((const float *)c->input[D]->data)[h] : 0.0f;
    for (int64_t t = first; t < end; t++) {
        const float delta = step_size(c, t, h), decay = DECAY(delta * a);
        const float *x = row(c->input[X], t, h), *b = row(c->input[B], t, g), *cc = row(c->input[C], t, g);
        float *y = out_row(c->output[0], t, h);
        for (int64_t p = 0; p < P; p++) {
            float sum = 0.0f;
            for (int64_t n = 0; n < N; n++) {
                const float value = decay * state[p * N + n] + delta * x[p] * b[n];
                state[p * N + n] = STATE_OF(value, t - first, length, slot, n);
                sum += state[p * N + n] * cc[n];
            }
            sum += d * x[p];
            if (c->input[Z]) {
                const float z = row(c->input[Z], t, h)[p];
                sum *= z / (1.0f + expf(-z));
            }
            y[p] = RESULT_OF(sum, t - first, p, P);
        }
    }
}

static ck_status CK_CALL run(const void *self, const ck_part *part) {
    (void)self;
    const ck_call *c = part->call;
    ON_RUN(part)
    const int64_t T = c->input[X]->dim[0], H = c->input[X]->dim[1], P = c->input[X]->dim[2], N = c->input[B]->dim[2];
    const int64_t first = H * part->part / part->n_part, end = H * (part->part + 1) / part->n_part;
    for (uint32_t s = 0; s < c->n_seq; s++) {
        if (c->seq_start[s] == c->seq_start[s + 1]) {
            continue;
        }
        char *slot = (char *)c->state[0]->data + SLOT_OF(c, s) * c->state[0]->stride_bytes[0];
        for (int64_t h = first; h < end; h++) {
            scan_head(c, h, c->seq_start[s], c->seq_start[s + 1], (float *)slot + h * P * N, c->slot[s], part);
        }
    }
    for (int64_t t = c->seq_start[c->n_seq]; ROWS_OF_PADDING && t < T; t++) {
        for (int64_t h = first; h < end; h++) {
            memset(out_row(c->output[0], t, h), 0, (size_t)P * sizeof(float));
        }
    }
    AFTER_PART(part, first, end)
    return CK_OK;
}

static const ck_kernel KERNEL = {sizeof(ck_kernel), PREFERENCE, "conifer.ssd_scan/1", NULL, supports, plan, NULL, RUN_OF_KERNEL};
static const ck_kernel *const KERNELS[] = {&KERNEL};
#ifndef PLUGIN_SIZE
#define PLUGIN_SIZE sizeof(ck_plugin)
#endif
static const ck_plugin PLUGIN = {PLUGIN_SIZE, CK_ABI_MINOR, PLUGIN_ID, "1.0.0", 1, 0, KERNELS};

CK_EXPORT const ck_plugin *CK_CALL ABI_ENTRY(const ck_host *host, ck_error *err);
CK_EXPORT const ck_plugin *CK_CALL ABI_ENTRY(const ck_host *host, ck_error *err) {
    (void)host, (void)err;
    ON_ENTRY
    return &PLUGIN;
}
