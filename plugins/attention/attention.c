/* conifer.attention/1: causal grouped-query attention over a table of cache blocks.
 *
 *   phase 0  append k and v; a part takes tokens
 *   phase 1  attend; a part takes pairs of a block of tokens and a key head, or, of a sequence with one token, pairs of a
 *            segment of its positions and a key head
 *   phase 2  put the segments of those sequences together; a part takes query heads
 *
 * A row, one query head of one token, meets positions in tiles and segments that begin at fixed positions, and each of its
 * numbers is summed in one order. So its bits depend neither on the other rows, nor on how a prompt was cut into calls, nor
 * on n_part: one token by itself goes through the same tiles and is merged by the same function. */
#include "conifer_check.h"
#include "conifer_kernel.h"

enum { Q, K, V, POSITION, N_INPUT };
enum { TABLE, KEYS, VALUES, N_STATE };
enum {
    TILE = 64,      /* positions whose keys and values are float32 in the cache at a time */
    SEGMENT = 256,  /* positions that are summed before they are merged with the ones before: what one part may do alone */
    MOST_ROWS = 96, /* rows that share a tile: what unpacking it costs is divided by them */
    VECTOR = 16,    /* floats of the widest vector */
};
static const float LOG2_E = 1.44269504f;

/* A call in numbers, one for all parts. */
typedef struct {
    const ck_tensor *q, *k, *v, *position, *table, *keys, *values, *y;
    int64_t H, J, P, V, group, rows; /* rows: most of one tile */
    int64_t width;                   /* V in whole vectors */
    int64_t R, window, n_segment;
    float   scale;
} attention;

/* One sequence of the call: n tokens from `first` on, which stand at positions from `start` on. */
typedef struct {
    const int32_t *table;
    int64_t first, n, start;
} sequence;

/* The memory of one part, in floats. Rows are [rows][...]. */
typedef struct {
    float *q, *key, *value, *score, *sum, *total;       /* [P], key [P][TILE], value [TILE][width], [TILE], [width] */
    float *most, *weight, *found, *keep; /* [rows]: largest score, sum of weights, that of a tile, factor of what was before */
    float *all_most, *all_weight;
} attention_room;

/* IEEE half precision by integers, for processors without an instruction. */
static inline __attribute__((unused)) float half_to_float(uint16_t h) {
    const uint32_t sign = (uint32_t)(h & 0x8000) << 16, size = h & 0x7fff;
    union {
        uint32_t bits;
        float    value;
    } u = {.bits = (size << 13) + (112u << 23)};
    if (size >= 0x7c00) {
        u.bits += 112u << 23;
    } else if (size < 0x400) {
        u.value = (float)size * 0x1p-24f;
    }
    u.bits |= sign;
    return u.value;
}

static inline __attribute__((unused)) uint16_t float_to_half(float f) {
    union {
        float    value;
        uint32_t bits;
    } u = {f};
    const uint32_t size = u.bits & 0x7fffffff, sign = u.bits >> 16 & 0x8000;
    if (size > 0x7f800000) {
        return (uint16_t)(sign | 0x7e00 | (size >> 13 & 0x1ff));
    }
    if (size >= 0x477ff000) { /* 65520 and more round to infinity */
        return (uint16_t)(sign | 0x7c00);
    }
    if (size < 0x38800000) { /* below 2^-14: in steps of 2^-24, to which the sum with 0.5 rounds */
        union {
            float    value;
            uint32_t bits;
        } tiny = {.bits = size};
        tiny.value += 0.5f;
        return (uint16_t)(sign | (tiny.bits - 0x3f000000));
    }
    return (uint16_t)(sign | (size + 0xfff + (size >> 13 & 1) - (112u << 23)) >> 13);
}

/* The first position that a token at `position` sees. */
static int64_t seen_from(const attention *a, int64_t position) { return position < a->window ? 0 : position - a->window + 1; }

#define CK_LOOPS "attention_loops.h"
#include "conifer_simd.h"

static int64_t whole_vectors(int64_t n) { return (n + VECTOR - 1) / VECTOR * VECTOR; }

/* Tokens of a block of queries: as many as share a tile, fewer where the rows are long. */
static int64_t tokens_at_once(int64_t group, int64_t P, int64_t V) {
    const int64_t rows = P + V <= 512 ? MOST_ROWS : MOST_ROWS / 2;
    return rows > group ? rows / group : 1;
}

static int64_t room_of_part(const attention *a) {
    const int64_t rows = whole_vectors(a->rows);
    return rows * (whole_vectors(a->P) + TILE + 2 * a->width + 6) + TILE * (whole_vectors(a->P) + a->width);
}

static attention_room lay_out(float *at, const attention *a) {
    const int64_t rows = whole_vectors(a->rows);
    attention_room r;
    r.q = at, at += rows * whole_vectors(a->P);
    r.key = at, at += TILE * whole_vectors(a->P);
    r.value = at, at += TILE * a->width;
    r.score = at, at += rows * TILE;
    r.sum = at, at += rows * a->width;
    r.total = at, at += rows * a->width;
    r.most = at, at += rows;
    r.weight = at, at += rows;
    r.found = at, at += rows;
    r.keep = at, at += rows;
    r.all_most = at, at += rows;
    r.all_weight = at;
    return r;
}

/* What one segment leaves of one row: largest score, sum of weights, and from VECTOR on the sum of values. */
static int64_t record_size(const attention *a) { return VECTOR + a->width; }

/* Records of every sequence that may have one token. */
static int64_t record_room(const ck_call *c, const attention *a) {
    const int64_t T = a->q->dim[0], alone = T < (int64_t)c->n_seq ? T : (int64_t)c->n_seq;
    return alone * a->H * a->n_segment * record_size(a);
}

static ck_status check_pool(const ck_tensor *t, const char *name, int64_t J, int64_t R, int64_t size, ck_error *err) {
    if (t == NULL || t->rank != 4) {
        return ck_refuse(err, "%s has %u axes, 4 are expected", name, t != NULL ? t->rank : 0);
    }
    if (t->dtype != CK_F16 && t->dtype != CK_BF16 && t->dtype != CK_Q8_0 && t->dtype != CK_F32) {
        return ck_refuse(err, "%s has dtype %u; f16, bf16, q8_0 or f32 is expected", name, t->dtype);
    }
    if (t->dtype == CK_Q8_0 && size % 32 != 0) {
        return ck_refuse(err, "%s is q8_0 with rows of %lld, not a multiple of 32", name, (long long)size);
    }
    return ck_expect_sizes(t, name, (const int64_t[]){t->dim[0], J, R, size}, err);
}

static ck_status check_integers(const ck_tensor *t, const char *name, uint32_t rank, ck_error *err) {
    if (t == NULL || t->rank != rank || t->dtype != CK_I32) {
        return ck_refuse(err, "%s has %u axes and dtype %u, %u and i32 are expected", name, t ? t->rank : 0, t ? t->dtype : 0, rank);
    }
    return CK_OK;
}

static ck_status check(const ck_call *c, ck_error *err) {
    CK_TRY(ck_expect_counts(c, N_INPUT, N_STATE, 0, 2, err));
    CK_TRY(ck_expect_rank(c->input[Q], "q", 3, 0, err));
    CK_TRY(ck_expect_rank(c->input[K], "k", 3, 0, err));
    CK_TRY(ck_expect_rank(c->input[V], "v", 3, 1, err));
    CK_TRY(ck_expect_rank(c->output[0], "y", 3, 0, err));
    CK_TRY(check_integers(c->input[POSITION], "position", 1, err));
    CK_TRY(check_integers(c->state[TABLE], "table", 2, err));
    const int64_t T = c->input[Q]->dim[0], H = c->input[Q]->dim[1], P = c->input[Q]->dim[2];
    const int64_t J = c->input[K]->dim[1], S = c->output[0]->dim[2];
    if (J < 1 || H % J != 0) {
        return ck_refuse(err, "q has %lld heads on axis 1, not a multiple of k's %lld", (long long)H, (long long)J);
    }
    CK_TRY(ck_expect_sizes(c->input[K], "k", (const int64_t[]){T, J, P}, err));
    CK_TRY(ck_expect_sizes(c->input[V], "v", (const int64_t[]){T, J, S}, err));
    CK_TRY(ck_expect_sizes(c->input[POSITION], "position", &T, err));
    CK_TRY(ck_expect_sizes(c->output[0], "y", (const int64_t[]){T, H, S}, err));
    const int64_t R = c->state[KEYS] != NULL && c->state[KEYS]->rank == 4 ? c->state[KEYS]->dim[2] : 0;
    CK_TRY(check_pool(c->state[KEYS], "keys", J, R, P, err));
    CK_TRY(check_pool(c->state[VALUES], "values", J, R, S, err));
    if (R < 1) {
        return ck_refuse(err, "keys has %lld rows a block on axis 2", (long long)R);
    }
    if (c->input[V] == NULL && S > P) {
        return ck_refuse(err, "y has %lld values a head and v is missing: keys have only %lld", (long long)S, (long long)P);
    }
    if (!(c->real_attr[1] >= 1.0)) {
        return ck_refuse(err, "window is %g, at least 1 is expected", c->real_attr[1]);
    }
    return CK_OK;
}

static attention read_call(const ck_call *c) {
    attention a = {
        .q = c->input[Q], .k = c->input[K], .v = c->input[V], .position = c->input[POSITION], .table = c->state[TABLE],
        .keys = c->state[KEYS], .values = c->input[V] ? c->state[VALUES] : c->state[KEYS], .y = c->output[0],
        .H = c->input[Q]->dim[1], .J = c->input[K]->dim[1], .P = c->input[Q]->dim[2], .V = c->output[0]->dim[2],
        .R = c->state[KEYS]->dim[2], .scale = (float)c->real_attr[0],
    };
    a.group = a.H / a.J;
    a.rows = a.group * tokens_at_once(a.group, a.P, a.V);
    a.width = whole_vectors(a.V);
    a.window = c->real_attr[1] < 0x1p40 ? (int64_t)c->real_attr[1] : (int64_t)1 << 40;
    a.n_segment = (a.table->dim[1] * a.R + SEGMENT - 1) / SEGMENT;
    return a;
}

static ck_status CK_CALL supports(const void *self, const ck_call *call, ck_error *err) {
    (void)self;
    return check(call, err);
}

static ck_status CK_CALL plan(const void *self, const ck_call *c, uint32_t max_part, ck_need *need, ck_error *err) {
    (void)self;
    CK_TRY(check(c, err));
    const attention a = read_call(c);
    need->n_phase = 3;
    need->scratch_bytes = sizeof(float) * (uint64_t)(record_room(c, &a) + max_part * room_of_part(&a));
    need->packed_bytes = 0;
    ck_promise(need, CK_SPLIT_EXACT);
    return CK_OK;
}

static sequence read_sequence(const ck_call *c, const attention *a, uint32_t i) {
    sequence s = {.first = c->seq_start[i], .n = c->seq_start[i + 1] - c->seq_start[i]};
    if (s.n > 0) {
        s.table = (const int32_t *)((const char *)a->table->data + c->slot[i] * a->table->stride_bytes[0]);
        s.start = *(const int32_t *)((const char *)a->position->data + s.first * a->position->stride_bytes[0]);
    }
    return s;
}

/* The host owes room for every token of the call, and blocks for what they see. */
static int blocks_exist(const attention *a, const sequence *s) {
    if (s->start < 0 || s->start + s->n > a->table->dim[1] * a->R) {
        return 0;
    }
    for (int64_t b = seen_from(a, s->start) / a->R; b <= (s->start + s->n - 1) / a->R; b++) {
        if (s->table[b] < 0 || s->table[b] >= a->keys->dim[0] || s->table[b] >= a->values->dim[0]) {
            return 0;
        }
    }
    return 1;
}

static ck_status append(const ck_part *p, const attention *a) {
    const ck_call *c = p->call;
    const int64_t n = c->seq_start[c->n_seq];
    const int64_t first = ck_share(n, p->part, p->n_part), end = ck_share(n, p->part + 1, p->n_part);
    for (uint32_t i = 0; i < c->n_seq; i++) {
        const sequence s = read_sequence(c, a, i);
        if (s.n > 0 && !blocks_exist(a, &s)) {
            return CK_INTERNAL;
        }
        for (int64_t t = s.first > first ? s.first : first; t < s.first + s.n && t < end; t++) {
            CK_DISPATCH(append_token, a, &s, t);
        }
    }
    return CK_OK;
}

/* Shares (block of tokens, key head) and (segment, key head) in turn: neighbours cost about the same. */
static void attend(const ck_part *p, const attention *a, const attention_room *room, float *records) {
    const ck_call *c = p->call;
    uint64_t unit = 0;
    for (uint32_t i = 0; i < c->n_seq; i++) {
        const sequence s = read_sequence(c, a, i);
        if (s.n == 1) {
            for (int64_t g = seen_from(a, s.start) / SEGMENT; g <= s.start / SEGMENT; g++) {
                for (int64_t j = 0; j < a->J; j++) {
                    if (unit++ % p->n_part == p->part) {
                        float *record = records + (g * a->H + j * a->group) * record_size(a);
                        CK_DISPATCH(attend_segment, a, &s, j, g * SEGMENT, record, record_size(a), room);
                    }
                }
            }
            records += a->H * a->n_segment * record_size(a);
            continue;
        }
        const int64_t step = a->rows / a->group;
        for (int64_t t = 0; t < s.n; t += step) {
            for (int64_t j = 0; j < a->J; j++) {
                if (unit++ % p->n_part == p->part) {
                    CK_DISPATCH(attend_block, a, &s, j, t, s.n - t < step ? s.n - t : step, room);
                }
            }
        }
    }
}

static void put_together(const ck_part *p, const attention *a, const attention_room *room, const float *records) {
    const ck_call *c = p->call;
    const int64_t head = ck_share(a->H, p->part, p->n_part), end = ck_share(a->H, p->part + 1, p->n_part);
    for (uint32_t i = 0; i < c->n_seq; i++) {
        const sequence s = read_sequence(c, a, i);
        if (s.n == 1) {
            for (int64_t h = head; h < end; h++) {
                CK_DISPATCH(merge_segments, a, &s, h, records + h * record_size(a), a->H * record_size(a), room);
            }
            records += a->H * a->n_segment * record_size(a);
        }
    }
    for (int64_t t = c->seq_start[c->n_seq]; t < a->y->dim[0]; t++) {
        for (int64_t h = head; h < end; h++) {
            memset(ck_at2(a->y, t, h), 0, (size_t)a->V * sizeof(float));
        }
    }
}

static ck_status CK_CALL run(const void *self, const ck_part *p) {
    (void)self;
    const attention a = read_call(p->call);
    if (p->phase == 0) {
        return append(p, &a);
    }
    float *records = p->scratch, *rooms = records + record_room(p->call, &a);
    const attention_room room = lay_out(rooms + p->part * room_of_part(&a), &a);
    if (p->phase == 1) {
        attend(p, &a, &room, records);
    } else {
        put_together(p, &a, &room, records);
    }
    return CK_OK;
}

static const ck_kernel KERNEL = {sizeof(ck_kernel), 0, "conifer.attention/1", NULL, supports, plan, NULL, run};
static const ck_kernel *const KERNELS[] = {&KERNEL};
static const ck_plugin PLUGIN = {sizeof(ck_plugin), CK_ABI_MINOR, "org.conifer.attention", "0.1.0", 1, 0, KERNELS};

CK_EXPORT const ck_plugin *CK_CALL conifer_kernel_entry_v1(const ck_host *host, ck_error *err) {
    (void)host, (void)err;
    return &PLUGIN;
}
