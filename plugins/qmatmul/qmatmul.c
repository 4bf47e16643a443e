/* conifer.qmatmul/1: a product with a weight in GGUF's own blocks, which are read where the file is mapped.
 *
 *   phase 0  activations are rounded to 8 bits, a part takes rows (few rows: every part rounds them all for itself)
 *   phase 1  integer products, a part takes rows of the weight
 *
 * The loops are in qmatmul_loops.h, written once for every instruction set. */
#include "conifer_check.h"
#include "conifer_kernel.h"

#include <string.h>

enum { X, WEIGHT, N_INPUT };
enum {
    QM_INPUTS = 256, /* inputs that are unpacked and multiplied at a time */
    QM_BATCH = 128,  /* tokens that they are unpacked for */
    QM_SHARE = 32,   /* rows of the weight that parts take: a multiple of every group */
    FEW = 2          /* rows of x that are cheaper to round in every part than to wait for */
};
#define QM_IS_K(type) ((type) == CK_Q4_K || (type) == CK_Q5_K || (type) == CK_Q6_K)

/* QM_INPUTS activations of one token, rounded to 8 bits: with one d beside the K types, with one for each 32 beside others. */
typedef struct {
    int8_t q[QM_INPUTS];
    union {
        int32_t start[16]; /* - centre * sum, of each 32 neighbours; Q6_K: of each 16 */
        int16_t sum[16];   /* Q6_K on AVX2: of each 16 */
    };
    float   factor[8]; /* K types: d * sum of each 32; others: d of each 32 */
    float   d;
    int32_t wide; /* whether a sum of products, weights less their centre, may leave 16 bits */
} rounded;

typedef struct {
    const ck_tensor *x;
    const uint8_t   *weight;  /* [N] rows of row_bytes */
    const rounded   *rounded; /* [ceil(K / QM_INPUTS)][n_x] */
    int64_t          N, K, row_bytes, n_x;
    int              type;
} product;

/* Tokens that are multiplied together: rows of x, and where their results go. */
typedef struct {
    int64_t n, x[QM_BATCH];
    float  *y[QM_BATCH];
} batch;

#define CK_VNNI
#define CK_LOOPS "qmatmul_loops.h"
#include "conifer_simd.h"

static int64_t block_of(uint32_t type) {
    switch (type) {
    case CK_Q4_K:
    case CK_Q5_K:
    case CK_Q6_K: return 256;
    case CK_Q8_0:
    case CK_Q4_0:
    case CK_Q5_0: return 32;
    case CK_F16:
    case CK_BF16:
    case CK_F32: return 1;
    default: return 0;
    }
}

static ck_status check(const ck_call *c, ck_error *err) {
    CK_TRY(ck_expect_counts(c, N_INPUT, 0, 0, 0, err));
    CK_TRY(ck_expect_rank(c->input[X], "x", 2, 0, err));
    CK_TRY(ck_expect_rank(c->output[0], "y", 2, 0, err));
    const ck_tensor *w = c->input[WEIGHT];
    if (w == NULL) {
        return ck_refuse(err, "weight is missing");
    }
    if (w->rank != 2) {
        return ck_refuse(err, "weight has %u axes, 2 are expected", w->rank);
    }
    const int64_t block = block_of(w->dtype), T = c->input[X]->dim[0], K = c->input[X]->dim[1];
    if (block == 0) {
        return ck_refuse(err, "weight has dtype %u, which the op does not know", w->dtype);
    }
    CK_TRY(ck_expect_sizes(w, "weight", (const int64_t[]){w->dim[0], K}, err));
    if (K % block != 0) {
        return ck_refuse(err, "weight has %lld on axis 1, not a multiple of its %lld", (long long)K, (long long)block);
    }
    return ck_expect_sizes(c->output[0], "y", (const int64_t[]){T, w->dim[0]}, err);
}

static ck_status CK_CALL supports(const void *self, const ck_call *call, ck_error *err) {
    (void)self;
    return check(call, err);
}

static int64_t rounded_bytes(const ck_call *c) {
    const int64_t block = block_of(c->input[WEIGHT]->dtype), T = c->input[X]->dim[0], K = c->input[X]->dim[1];
    return block == 1 ? 0 : T * ((K + QM_INPUTS - 1) / QM_INPUTS) * (int64_t)sizeof(rounded);
}

static int64_t share_bytes(const ck_call *c) { return (rounded_bytes(c) + 63) / 64 * 64; }

static int rounds_alone(const ck_call *c) { return c->input[X]->dim[0] <= FEW; }

static ck_status CK_CALL plan(const void *self, const ck_call *c, uint32_t max_part, ck_need *need, ck_error *err) {
    (void)self;
    CK_TRY(check(c, err));
    need->n_phase = rounds_alone(c) || rounded_bytes(c) == 0 ? 1 : 2;
    need->scratch_bytes = (uint64_t)share_bytes(c) * (need->n_phase == 1 ? max_part : 1);
    need->packed_bytes = 0;
    ck_promise(need, CK_SPLIT_EXACT);
    return CK_OK;
}

static void round_rows(const product *p, int64_t first, int64_t end) {
    for (int64_t t = first; t < end; t++) {
        CK_DISPATCH(round_row, p, ck_at(p->x, t), t, (rounded *)(uintptr_t)p->rounded);
    }
}

static void multiply_rows(const ck_part *part, const product *p) {
    const ck_call *c = part->call;
    const int64_t  n_row = c->seq_start[c->n_seq], n_share = (p->N + QM_SHARE - 1) / QM_SHARE;
    const int64_t  first = QM_SHARE * ck_share(n_share, part->part, part->n_part);
    int64_t        end = QM_SHARE * ck_share(n_share, part->part + 1, part->n_part);
    end = end < p->N ? end : p->N;
    for (int64_t t = 0; t < n_row && first < end; t += QM_BATCH) {
        batch tokens = {.n = n_row - t < QM_BATCH ? n_row - t : QM_BATCH};
        for (int64_t i = 0; i < tokens.n; i++) {
            tokens.x[i] = t + i;
            tokens.y[i] = ck_at(c->output[0], t + i);
        }
        CK_DISPATCH(multiply, p, &tokens, first, end);
    }
    for (int64_t t = n_row; t < c->output[0]->dim[0] && first < end; t++) {
        memset(ck_at(c->output[0], t) + first, 0, (size_t)(end - first) * sizeof(float));
    }
}

static ck_status CK_CALL run(const void *self, const ck_part *part) {
    (void)self;
    const ck_call   *c = part->call;
    const ck_tensor *w = c->input[WEIGHT];
    const int64_t    block = block_of(w->dtype), n_row = c->seq_start[c->n_seq];
    const int        alone = rounds_alone(c), two_phases = !alone && block > 1;
    product p = {
        .x = c->input[X], .weight = w->data, .N = w->dim[0], .K = w->dim[1], .row_bytes = w->stride_bytes[0],
        .n_x = c->input[X]->dim[0], .type = (int)w->dtype,
        .rounded = (const rounded *)((const char *)part->scratch + (alone ? part->part * share_bytes(c) : 0)),
    };
    if (alone && block > 1) {
        round_rows(&p, 0, n_row);
    } else if (two_phases && part->phase == 0) {
        round_rows(&p, ck_share(n_row, part->part, part->n_part), ck_share(n_row, part->part + 1, part->n_part));
        return CK_OK;
    }
    multiply_rows(part, &p);
    return CK_OK;
}

static const ck_kernel KERNEL = {sizeof(ck_kernel), 0, "conifer.qmatmul/1", NULL, supports, plan, NULL, run};
static const ck_kernel *const KERNELS[] = {&KERNEL};
static const ck_plugin PLUGIN = {sizeof(ck_plugin), CK_ABI_MINOR, "org.conifer.qmatmul", "0.1.0", 1, 0, KERNELS};

CK_EXPORT const ck_plugin *CK_CALL conifer_kernel_entry_v1(const ck_host *host, ck_error *err) {
    (void)host, (void)err;
    return &PLUGIN;
}
