/* conifer.qmatmul/1 and conifer.expert_matmul/1: products with weights in GGUF's own blocks, read where the file is mapped.
 *
 *   phase 0  activations are rounded to 8 bits, a part takes rows (few rows: every part rounds them all for itself)
 *   phase 1  experts: the rows of each are put together
 *   last     integer products, a part takes rows of the weight
 *
 * The loops are in qmatmul_loops.h, written once for every instruction set. */
#include "conifer_check.h"
#include "conifer_kernel.h"

#include <math.h>
#include <string.h>

enum { X, WEIGHT, GATE, NORM, N_INPUT };
enum { GATE_ACT, N_INT };
enum { EPS, N_REAL };
enum { E_EXPERT, E_X, E_WEIGHT, E_N_INPUT };
enum {
    QM_INPUTS = 256, /* inputs that are unpacked and multiplied at a time */
    QM_TILE = 4,     /* tokens whose activations lie side by side */
    QM_BATCH = 512,  /* tokens that weights are unpacked for */
    QM_SHARE = 32,   /* rows of the weight that parts take: a multiple of every group */
    FEW = 2          /* rows of x that are cheaper to round in every part than to wait for, and to multiply one by one */
};
#define QM_IS_K(type) ((type) == CK_Q4_K || (type) == CK_Q5_K || (type) == CK_Q6_K)

/* QM_INPUTS activations of one token, rounded to 8 bits: with one d beside the K types, with one for each 32 beside others. All
 * of it is multiplied lane by lane, 32 bits at a time. */
enum {
    QM_START = 64,     /* behind the activations, by fours: - offset * sum, of each 32 neighbours; Q6_K: of each 16 */
    QM_SUMS = 80,      /* K types: sums of each 32, in pairs of 16 bits; Q6_K: of each 16 */
    QM_D = 88,         /* d, floats: one, or that of each 32 */
    QM_WIDE = 89,      /* K types with VNNI: whether the sum of a fold may leave 16 bits */
    QM_COLUMN = 96
};
typedef struct {
    int32_t number[QM_COLUMN];
} column;

typedef struct {
    const uint8_t *weight;  /* [N] rows of row_bytes */
    const column  *columns; /* [ceil(K / QM_INPUTS)][n_column]; either one by one, or QM_TILE by QM_TILE side by side */
    int64_t        N, K, row_bytes, n_column;
    int            type;
} product;

/* Tokens that are multiplied together: their columns by number and their activations as they are, and where their results go. */
typedef struct {
    int64_t      n, x[QM_BATCH];
    const float *from[QM_BATCH];
    float       *y[QM_BATCH];
    int          alone; /* columns lie one by one */
} batch;

#define CK_DOT8 1
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
    CK_TRY(ck_expect_counts(c, N_INPUT, 0, N_INT, N_REAL, err));
    CK_TRY(ck_expect_rank(c->input[X], "x", 2, 0, err));
    CK_TRY(ck_expect_rank(c->input[GATE], "gate", 2, 1, err));
    CK_TRY(ck_expect_rank(c->input[NORM], "norm", 1, 1, err));
    CK_TRY(ck_expect_rank(c->output[0], "y", 2, 0, err));
    CK_TRY(ck_expect_sizes(c->input[GATE], "gate", c->input[X]->dim, err));
    CK_TRY(ck_expect_sizes(c->input[NORM], "norm", c->input[X]->dim + 1, err));
    CK_TRY(ck_expect_choice(c, GATE_ACT, "gate_act", 2, err));
    CK_TRY(check_weight(c->input[WEIGHT], 0, c->input[X]->dim[1], err));
    return ck_expect_sizes(c->output[0], "y", (const int64_t[]){c->input[X]->dim[0], c->input[WEIGHT]->dim[0]}, err);
}

/* Gates and norms are applied on the way to 8 bits; beside weights that are floats, activations stay where they are. */
static ck_status CK_CALL supports(const void *self, const ck_call *c, ck_error *err) {
    (void)self;
    CK_TRY(check(c, err));
    const int prepares = c->input[GATE] != NULL || c->input[NORM] != NULL;
    return prepares && block_of(c->input[WEIGHT]->dtype) == 1 ? CK_UNSUPPORTED : CK_OK;
}

/* Bytes of n columns for each QM_INPUTS of K, a multiple of a cache line. */
static int64_t column_bytes(const ck_tensor *w, int64_t n, int64_t K) {
    return block_of(w->dtype) == 1 ? 0 : n * ((K + QM_INPUTS - 1) / QM_INPUTS) * (int64_t)sizeof(column);
}

static int64_t whole_tiles(int64_t n) { return (n + QM_TILE - 1) / QM_TILE * QM_TILE; }

static ck_status CK_CALL plan(const void *self, const ck_call *c, uint32_t max_part, ck_need *need, ck_error *err) {
    (void)self;
    CK_TRY(check(c, err));
    const int64_t n_x = c->input[X]->dim[0], K = c->input[X]->dim[1];
    const int64_t size = column_bytes(c->input[WEIGHT], whole_tiles(n_x), K);
    /* A run of this plan may have few rows, and then every part rounds them for itself. */
    const int64_t few = column_bytes(c->input[WEIGHT], n_x < FEW ? n_x : FEW, K) * max_part;
    need->n_phase = n_x <= FEW || size == 0 ? 1 : 2;
    need->scratch_bytes = (uint64_t)(size > few ? size : few);
    need->packed_bytes = 0;
    ck_promise(need, CK_SPLIT_EXACT);
    return CK_OK;
}

/* n inputs of row t from k, times the activation of their gate: where they lie, or made in `room`. */
static const float *gated(const ck_call *c, int64_t t, int64_t k, int64_t n, float *room) {
    const float *x = ck_at(c->input[X], t) + k;
    if (c->input[GATE] == NULL) {
        return x;
    }
    CK_DISPATCH(apply_gate, x, ck_at(c->input[GATE], t) + k, n, c->int_attr[GATE_ACT] == 1, room);
    return room;
}

/* 1 / rms of a row where there is a norm. */
static float scale_of(const ck_call *c, int64_t t) {
    const int64_t K = c->input[X]->dim[1];
    float         room[QM_INPUTS];
    double        squares = 0.0;
    for (int64_t k = 0; k < K && c->input[NORM] != NULL; k += QM_INPUTS) {
        const int64_t n = K - k < QM_INPUTS ? K - k : QM_INPUTS;
        float         sum = 0.0f;
        CK_DISPATCH(sum_squares, gated(c, t, k, n, room), n, &sum);
        squares += sum;
    }
    return (float)(1.0 / sqrt(squares / (double)K + c->real_attr[EPS]));
}

/* The column of row t from k, a multiple of QM_INPUTS. */
static void round_inputs(const product *p, const ck_call *c, int64_t t, float scale, int64_t k, column *to) {
    const int64_t n = p->K - k < QM_INPUTS ? p->K - k : QM_INPUTS;
    const product panel = {.K = n, .type = p->type};
    float         room[QM_INPUTS];
    const float  *x = gated(c, t, k, n, room);
    /* The next panel of this row: rows take turns, 1 KB of each, which no hardware foresees. */
    for (int64_t i = 0; i < QM_INPUTS; i += 16) {
        __builtin_prefetch(ck_at(c->input[X], t) + k + QM_INPUTS + i);
    }
    if (c->input[NORM] != NULL) {
        CK_DISPATCH(apply_norm, x, (const float *)c->input[NORM]->data + k, n, scale, room);
        x = room;
    }
    CK_DISPATCH(round_row, &panel, x, 0, to);
}

/* n <= QM_TILE rows from t as columns of which `tile` is the first, side by side. */
static void round_tile(const product *p, const ck_call *c, int64_t t, int n, column *tile) {
    column        rounded[QM_TILE];
    const column *from[QM_TILE];
    float         scale[QM_TILE];
    for (int i = 0; i < n; i++) {
        from[i] = rounded + i;
        scale[i] = scale_of(c, t + i);
    }
    /* A panel after the other: what is rounded stays in the first cache. */
    for (int64_t k = 0; k < p->K; k += QM_INPUTS, tile += p->n_column) {
        for (int i = 0; i < n; i++) {
            round_inputs(p, c, t + i, scale[i], k, rounded + i);
        }
        CK_DISPATCH(interleave, from, n, tile);
    }
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
        batch tokens = {.n = n_row - t < QM_BATCH ? n_row - t : QM_BATCH, .alone = c->input[X]->dim[0] <= FEW};
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
    const int64_t    n_row = c->seq_start[c->n_seq], n_x = c->input[X]->dim[0];
    const int        alone = n_x <= FEW;
    const int64_t    n_column = alone ? n_x : whole_tiles(n_x), size = column_bytes(w, n_column, w->dim[1]);
    column          *columns = (column *)((char *)part->scratch + (alone ? part->part * size : 0));
    const product    p = {
           .weight = w->data, .N = w->dim[0], .K = w->dim[1], .row_bytes = w->stride_bytes[0],
           .n_column = n_column, .type = (int)w->dtype, .columns = columns,
    };
    if (size > 0 && alone) {
        for (int64_t t = 0; t < n_row && part->phase == 0; t++) {
            const float scale = scale_of(c, t);
            for (int64_t k = 0; k < p.K; k += QM_INPUTS) {
                round_inputs(&p, c, t, scale, k, columns + k / QM_INPUTS * n_column + t);
            }
        }
    } else if (size > 0 && part->phase == 0) {
        const int64_t n_tile = whole_tiles(n_row) / QM_TILE, end = ck_share(n_tile, part->part + 1, part->n_part);
        for (int64_t i = ck_share(n_tile, part->part, part->n_part); i < end; i++) {
            const int64_t t = i * QM_TILE;
            round_tile(&p, c, t, (int)(n_row - t < QM_TILE ? n_row - t : QM_TILE), columns + t);
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

/* What the scratch of a call holds, in bytes: columns of the rows of x, then of the rows of each expert side by side (from
 * whole tiles, where an expert has more than FEW), then for each part a list of rows, expert by expert, and where they begin. */
typedef struct {
    int64_t n_x, n_side, columns, sides, list;
} layout;

static layout lay_out(const ck_call *c) {
    const ck_tensor *x = c->input[E_X], *w = c->input[E_WEIGHT];
    const int64_t    n_row = x->dim[0] * c->input[E_EXPERT]->dim[1], most = n_row / (FEW + 1);
    layout           l = {.n_x = x->dim[0] * x->dim[1]};
    l.n_side = whole_tiles(n_row + (QM_TILE - 1) * (w->dim[0] < most ? w->dim[0] : most));
    l.columns = (column_bytes(w, l.n_x, x->dim[2]) + 63) / 64 * 64;
    l.sides = column_bytes(w, l.n_side, x->dim[2]);
    l.list = ((n_row + w->dim[0] + 1) * (int64_t)sizeof(int32_t) + 63) / 64 * 64;
    return l;
}

static ck_status CK_CALL plan_experts(const void *self, const ck_call *c, uint32_t max_part, ck_need *need, ck_error *err) {
    (void)self;
    CK_TRY(check_experts(c, err));
    const layout l = lay_out(c);
    need->n_phase = 3;
    need->scratch_bytes = (uint64_t)(l.columns + l.sides + l.list * max_part);
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

static void round_experts(const ck_part *part, const product *p) {
    const ck_tensor *x = part->call->input[E_X];
    const int64_t    J = x->dim[1], n = part->call->seq_start[part->call->n_seq] * J;
    const int64_t    end = ck_share(n, part->part + 1, part->n_part);
    for (int64_t i = ck_share(n, part->part, part->n_part); i < end; i++) {
        CK_DISPATCH(round_row, p, ck_at2(x, i / J, i % J), p->n_column, (column *)(uintptr_t)p->columns + i);
    }
}

/* A part puts together every n_part-th tile. */
static void gather_experts(const ck_part *part, const product *p, const layout *l, const int32_t *start, const int32_t *row) {
    const ck_call *c = part->call;
    const int64_t  U = c->output[0]->dim[1], J = c->input[E_X]->dim[1];
    column        *to = (column *)((char *)part->scratch + l->columns);
    int64_t        tile = 0;
    for (int64_t e = 0; e < c->input[E_WEIGHT]->dim[0]; e++) {
        for (int64_t at = start[e]; start[e + 1] - start[e] > FEW && at < start[e + 1]; at += QM_TILE, tile++) {
            const int n = (int)(start[e + 1] - at < QM_TILE ? start[e + 1] - at : QM_TILE);
            for (int64_t b = 0; tile % part->n_part == part->part && b * QM_INPUTS < p->K; b++) {
                const column *from[QM_TILE];
                for (int i = 0; i < n; i++) {
                    from[i] = p->columns + b * p->n_column + (J == 1 ? row[at + i] / U : row[at + i]);
                }
                CK_DISPATCH(interleave, from, n, to + b * l->n_side + tile * QM_TILE);
            }
        }
    }
}

static void multiply_experts(const ck_part *part, product *p, const layout *l, const int32_t *start, const int32_t *row) {
    const ck_call   *c = part->call;
    const ck_tensor *x = c->input[E_X], *w = c->input[E_WEIGHT], *y = c->output[0];
    const int64_t    U = y->dim[1], J = x->dim[1], n_row = c->seq_start[c->n_seq] * U;
    int64_t          first, end, side = 0;
    share_rows(part, p->N, &first, &end);
    for (int64_t e = 0; e < w->dim[0] && first < end; e++) {
        const int few = start[e + 1] - start[e] <= FEW;
        p->weight = (const uint8_t *)w->data + e * w->stride_bytes[0];
        p->n_column = few ? l->n_x : l->n_side;
        p->columns = (const column *)((const char *)part->scratch + (few ? 0 : l->columns));
        for (int64_t at = start[e]; at < start[e + 1]; at += QM_BATCH) {
            batch tokens = {.n = start[e + 1] - at < QM_BATCH ? start[e + 1] - at : QM_BATCH, .alone = few};
            for (int64_t i = 0; i < tokens.n; i++) {
                const int64_t t = row[at + i] / U, u = row[at + i] % U, j = J == 1 ? 0 : u;
                tokens.x[i] = few ? t * J + j : side + i;
                tokens.from[i] = ck_at2(x, t, j);
                tokens.y[i] = ck_at2(y, t, u);
            }
            side += few ? 0 : whole_tiles(tokens.n);
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
    const ck_tensor *w = c->input[E_WEIGHT];
    const layout     l = lay_out(c);
    product          p = {
                 .N = w->dim[1], .K = w->dim[2], .row_bytes = w->stride_bytes[1], .n_column = l.n_x,
                 .type = (int)w->dtype, .columns = part->scratch,
    };
    int32_t   *start = (int32_t *)((char *)part->scratch + l.columns + l.sides + part->part * l.list);
    int32_t   *row = start + w->dim[0] + 1;
    const int  whole = block_of(w->dtype) > 1;
    if (part->phase > 0) {
        list_rows(c, c->seq_start[c->n_seq] * c->output[0]->dim[1], start, row);
    }
    if (part->phase == 0 && whole) {
        round_experts(part, &p);
    } else if (part->phase == 1 && whole) {
        gather_experts(part, &p, &l, start, row);
    } else if (part->phase == 2) {
        multiply_experts(part, &p, &l, start, row);
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
