/* conifer.qmatmul/1 and conifer.expert_matmul/1: products with weights in GGUF's own blocks, read where the file is mapped.
 *
 *   phase 0  activations are rounded to 8 bits, a part takes rows (few rows: every part rounds them all for itself)
 *   phase 1  integer products, a part takes rows of the weight
 *
 * The loops are in qmatmul_loops.h, written once for every instruction set. */
#include "conifer_check.h"
#include "conifer_kernel.h"

#include <string.h>

enum { X, WEIGHT, N_INPUT };
enum { E_EXPERT, E_X, E_WEIGHT, E_N_INPUT };
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
    const uint8_t *weight;    /* [N] rows of row_bytes */
    const rounded *rounded;   /* [ceil(K / QM_INPUTS)][n_x] */
    int64_t        N, K, row_bytes, n_x;
    int            type;
} product;

/* Tokens that are multiplied together: rows of x by number and as they are, and where their results go. */
typedef struct {
    int64_t      n, x[QM_BATCH];
    const float *from[QM_BATCH];
    float       *y[QM_BATCH];
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

/* Is the weight [n_expert,] N, K of a known type? `experts` is 1 for a matrix for each expert, 0 for one matrix. */
static ck_status check_weight(const ck_tensor *w, uint32_t experts, int64_t K, ck_error *err) {
    if (w == NULL) {
        return ck_refuse(err, "weight is missing");
    }
    if (w->rank != 2 + experts) {
        return ck_refuse(err, "weight has %u axes, %u are expected", w->rank, 2 + experts);
    }
    const int64_t block = block_of(w->dtype), seen = w->dim[1 + experts];
    if (block == 0) {
        return ck_refuse(err, "weight has dtype %u, which the op does not know", w->dtype);
    }
    if (seen != K) {
        return ck_refuse(err, "weight has %lld on axis %u, %lld is expected", (long long)seen, 1 + experts, (long long)K);
    }
    if (K % block != 0) {
        return ck_refuse(err, "weight has %lld on axis %u, not a multiple of its %lld", (long long)K, 1 + experts,
                         (long long)block);
    }
    return CK_OK;
}

static ck_status check(const ck_call *c, ck_error *err) {
    CK_TRY(ck_expect_counts(c, N_INPUT, 0, 0, 0, err));
    CK_TRY(ck_expect_rank(c->input[X], "x", 2, 0, err));
    CK_TRY(ck_expect_rank(c->output[0], "y", 2, 0, err));
    CK_TRY(check_weight(c->input[WEIGHT], 0, c->input[X]->dim[1], err));
    return ck_expect_sizes(c->output[0], "y", (const int64_t[]){c->input[X]->dim[0], c->input[WEIGHT]->dim[0]}, err);
}

static ck_status CK_CALL supports(const void *self, const ck_call *call, ck_error *err) {
    (void)self;
    return check(call, err);
}

/* Bytes of n_x rounded rows, a multiple of a cache line. */
static int64_t rounded_bytes(const ck_tensor *w, int64_t n_x, int64_t K) {
    const int64_t n = block_of(w->dtype) == 1 ? 0 : n_x * ((K + QM_INPUTS - 1) / QM_INPUTS) * (int64_t)sizeof(rounded);
    return (n + 63) / 64 * 64;
}

static ck_status CK_CALL plan(const void *self, const ck_call *c, uint32_t max_part, ck_need *need, ck_error *err) {
    (void)self;
    CK_TRY(check(c, err));
    const int64_t n_x = c->input[X]->dim[0], size = rounded_bytes(c->input[WEIGHT], n_x, c->input[X]->dim[1]);
    /* A run of this plan may have few rows, and then every part rounds them for itself. */
    const int64_t few = rounded_bytes(c->input[WEIGHT], n_x < FEW ? n_x : FEW, c->input[X]->dim[1]) * max_part;
    need->n_phase = n_x <= FEW || size == 0 ? 1 : 2;
    need->scratch_bytes = (uint64_t)(size > few ? size : few);
    need->packed_bytes = 0;
    ck_promise(need, CK_SPLIT_EXACT);
    return CK_OK;
}

static void round_row(const product *p, const float *x, int64_t t) {
    CK_DISPATCH(round_row, p, x, t, (rounded *)(uintptr_t)p->rounded);
}

/* The rows of a weight that a part takes. */
static void share_rows(const ck_part *part, int64_t N, int64_t *first, int64_t *end) {
    const int64_t n = (N + QM_SHARE - 1) / QM_SHARE;
    *first = QM_SHARE * ck_share(n, part->part, part->n_part);
    *end = QM_SHARE * ck_share(n, part->part + 1, part->n_part);
    *end = *end < N ? *end : N;
}

static void multiply_rows(const ck_part *part, const product *p) {
    const ck_call *c = part->call;
    const int64_t  n_row = c->seq_start[c->n_seq];
    int64_t        first, end;
    share_rows(part, p->N, &first, &end);
    for (int64_t t = 0; t < n_row && first < end; t += QM_BATCH) {
        batch tokens = {.n = n_row - t < QM_BATCH ? n_row - t : QM_BATCH};
        for (int64_t i = 0; i < tokens.n; i++) {
            tokens.x[i] = t + i;
            tokens.from[i] = ck_at(c->input[X], t + i);
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
    const int64_t    n_row = c->seq_start[c->n_seq], n_x = c->input[X]->dim[0], size = rounded_bytes(w, n_x, w->dim[1]);
    const int        alone = n_x <= FEW;
    const product    p = {
           .weight = w->data, .N = w->dim[0], .K = w->dim[1], .row_bytes = w->stride_bytes[0],
           .n_x = n_x, .type = (int)w->dtype,
           .rounded = (const rounded *)((const char *)part->scratch + (alone ? part->part * size : 0)),
    };
    const int64_t first = alone ? 0 : ck_share(n_row, part->part, part->n_part);
    const int64_t end = alone ? n_row : ck_share(n_row, part->part + 1, part->n_part);
    if (size > 0 && part->phase == 0) {
        for (int64_t t = first; t < end; t++) {
            round_row(&p, ck_at(c->input[X], t), t);
        }
    }
    if (part->phase == (size == 0 || alone ? 0 : 1)) {
        multiply_rows(part, &p);
    }
    return CK_OK;
}

/* ---- experts: rows of x are T times 1 or U, results T times U */

static ck_status check_experts(const ck_call *c, ck_error *err) {
    CK_TRY(ck_expect_counts(c, E_N_INPUT, 0, 0, 0, err));
    CK_TRY(ck_expect_rank(c->input[E_X], "x", 3, 0, err));
    CK_TRY(ck_expect_rank(c->output[0], "y", 3, 0, err));
    const ck_tensor *x = c->input[E_X], *expert = c->input[E_EXPERT];
    if (expert == NULL || expert->dtype != CK_I32 || expert->rank != 2) {
        return ck_refuse(err, "expert is not i32 with 2 axes");
    }
    const int64_t T = x->dim[0], U = expert->dim[1];
    CK_TRY(ck_expect_sizes(expert, "expert", (const int64_t[]){T, U}, err));
    if (x->dim[1] != 1 && x->dim[1] != U) {
        return ck_refuse(err, "x has %lld on axis 1, 1 or %lld is expected", (long long)x->dim[1], (long long)U);
    }
    CK_TRY(check_weight(c->input[E_WEIGHT], 1, x->dim[2], err));
    return ck_expect_sizes(c->output[0], "y", (const int64_t[]){T, U, c->input[E_WEIGHT]->dim[1]}, err);
}

static ck_status CK_CALL supports_experts(const void *self, const ck_call *call, ck_error *err) {
    (void)self;
    return check_experts(call, err);
}

/* Bytes of a part's list of rows, expert by expert, and of where each expert's begin. */
static int64_t list_bytes(const ck_call *c) {
    const int64_t n = c->input[E_X]->dim[0] * c->input[E_EXPERT]->dim[1] + c->input[E_WEIGHT]->dim[0] + 1;
    return (n * (int64_t)sizeof(int32_t) + 63) / 64 * 64;
}

static int64_t rounded_bytes_of_experts(const ck_call *c) {
    const ck_tensor *x = c->input[E_X];
    return rounded_bytes(c->input[E_WEIGHT], x->dim[0] * x->dim[1], x->dim[2]);
}

static ck_status CK_CALL plan_experts(const void *self, const ck_call *c, uint32_t max_part, ck_need *need, ck_error *err) {
    (void)self;
    CK_TRY(check_experts(c, err));
    need->n_phase = 2;
    need->scratch_bytes = (uint64_t)(rounded_bytes_of_experts(c) + list_bytes(c) * max_part);
    need->packed_bytes = 0;
    ck_promise(need, CK_SPLIT_EXACT);
    return CK_OK;
}

static int32_t expert_at(const ck_call *c, int64_t row) {
    const ck_tensor *expert = c->input[E_EXPERT];
    const int64_t    U = expert->dim[1];
    int32_t          e;
    memcpy(&e, (const char *)expert->data + row / U * expert->stride_bytes[0] + row % U * expert->stride_bytes[1], sizeof e);
    return e;
}

/* start[e] .. start[e + 1]: where in `row` the rows of expert e are, in order. */
static void list_rows(const ck_call *c, int64_t n_row, int32_t *start, int32_t *row) {
    const int64_t n_expert = c->input[E_WEIGHT]->dim[0];
    memset(start, 0, (size_t)(n_expert + 1) * sizeof *start);
    for (int64_t i = 0; i < n_row; i++) {
        start[expert_at(c, i)]++;
    }
    int32_t before = 0;
    for (int64_t e = 0; e <= n_expert; e++) {
        const int32_t n = start[e];
        start[e] = before;
        before += n;
    }
    for (int64_t i = 0; i < n_row; i++) {
        row[start[expert_at(c, i)]++] = (int32_t)i;
    }
    for (int64_t e = n_expert; e > 0; e--) {
        start[e] = start[e - 1];
    }
    start[0] = 0;
}

static void multiply_experts(const ck_part *part, product *p) {
    const ck_call   *c = part->call;
    const ck_tensor *x = c->input[E_X], *w = c->input[E_WEIGHT], *y = c->output[0];
    const int64_t    U = y->dim[1], J = x->dim[1], n_row = c->seq_start[c->n_seq] * U;
    int32_t *start = (int32_t *)((char *)part->scratch + rounded_bytes_of_experts(c) + part->part * list_bytes(c));
    int32_t *row = start + w->dim[0] + 1;
    int64_t  first, end;
    share_rows(part, p->N, &first, &end);
    list_rows(c, n_row, start, row);
    for (int64_t e = 0; e < w->dim[0] && first < end; e++) {
        p->weight = (const uint8_t *)w->data + e * w->stride_bytes[0];
        for (int64_t at = start[e]; at < start[e + 1]; at += QM_BATCH) {
            batch tokens = {.n = start[e + 1] - at < QM_BATCH ? start[e + 1] - at : QM_BATCH};
            for (int64_t i = 0; i < tokens.n; i++) {
                const int64_t t = row[at + i] / U, u = row[at + i] % U, j = J == 1 ? 0 : u;
                tokens.x[i] = t * J + j;
                tokens.from[i] = ck_at2(x, t, j);
                tokens.y[i] = ck_at2(y, t, u);
            }
            CK_DISPATCH(multiply, p, &tokens, first, end);
        }
    }
    for (int64_t i = n_row; i < y->dim[0] * U && first < end; i++) {
        memset(ck_at2(y, i / U, i % U) + first, 0, (size_t)(end - first) * sizeof(float));
    }
}

static ck_status CK_CALL run_experts(const void *self, const ck_part *part) {
    (void)self;
    const ck_call   *c = part->call;
    const ck_tensor *w = c->input[E_WEIGHT], *x = c->input[E_X];
    const int64_t    J = x->dim[1], n_x = c->seq_start[c->n_seq] * J;
    product          p = {
                 .N = w->dim[1], .K = w->dim[2], .row_bytes = w->stride_bytes[1], .n_x = x->dim[0] * J,
                 .type = (int)w->dtype, .rounded = part->scratch,
    };
    if (part->phase == 1) {
        multiply_experts(part, &p);
        return CK_OK;
    }
    const int64_t end = ck_share(n_x, part->part + 1, part->n_part);
    for (int64_t i = ck_share(n_x, part->part, part->n_part); i < end && block_of(w->dtype) > 1; i++) {
        round_row(&p, ck_at2(x, i / J, i % J), i);
    }
    return CK_OK;
}

static const ck_kernel EXPERTS = {
    sizeof(ck_kernel), 0, "conifer.expert_matmul/1", NULL, supports_experts, plan_experts, NULL, run_experts,
};
static const ck_kernel KERNEL = {sizeof(ck_kernel), 0, "conifer.qmatmul/1", NULL, supports, plan, NULL, run};
static const ck_kernel *const KERNELS[] = {&KERNEL, &EXPERTS};
static const ck_plugin PLUGIN = {sizeof(ck_plugin), CK_ABI_MINOR, "org.conifer.qmatmul", "0.1.0", 2, 0, KERNELS};

CK_EXPORT const ck_plugin *CK_CALL conifer_kernel_entry_v1(const ck_host *host, ck_error *err) {
    (void)host, (void)err;
    return &PLUGIN;
}
