/* The loops of conifer.qmatmul/1, for one instruction set. Included by qmatmul.c through conifer_simd.h, and includes the rest of them.
 *
 * A *group* is QM_ROWS rows of the weight, as lanes of QM_VECTORS vectors. QM_INPUTS inputs of a group after the other are
 * unpacked from GGUF's own blocks into a *panel* in the first cache, where bytes of the same inputs stand side by side, and
 * multiplied with a *batch* of tokens, *tile* by tile. The sum over blocks runs in order, for each row by itself: its bits
 * depend on nothing else. A single token needs no panel. */
#include "qmatmul_vector.h"

enum { CK_ISA(QM_VECTORS) = 2, CK_ISA(QM_ROWS) = 2 * CK_LANES };
/* Tokens whose sums stay in registers. Where code is checked and not timed, few: it compiles in a third of the time. */
#if defined(__SANITIZE_ADDRESS__) || defined(CK_EMULATE_AVX512)
enum { CK_ISA(QM_TOKENS) = 2 };
#else
enum { CK_ISA(QM_TOKENS) = 4 };
#endif
/* Folds whose sums do: 2 * 4 * 2 vectors fill half of the registers of AVX-512. */
enum { CK_ISA(QM_FOLDS) = CK_LANES == 16 ? 2 : 1 };
#define VECTORS CK_ISA(QM_VECTORS)
#define ROWS CK_ISA(QM_ROWS)
#define TOKENS CK_ISA(QM_TOKENS)
#define FOLDS CK_ISA(QM_FOLDS)

#define BYTES(x) ((int32_t)(0x01010101u * (x)))

/* The factors of QM_INPUTS inputs of CK_LANES rows. */
typedef struct {
    ck_ints scale[32]; /* of the folds; AVX-512: of two of them */
    ck_ints least[8];  /* K types: pairs of factors of QM_SUMS, for what all weights have in common; Q6_K: without an offset */
    ckv     d[8];      /* of each 32 inputs; K types: the first, and of `least` the second */
} CK_ISA(factors);

typedef struct {
    ck_ints         byte[QM_SUMS_16 ? 128 : 64][VECTORS];
    CK_ISA(factors) of[VECTORS];
} CK_ISA(panel);

#include "qmatmul_round.h"

/* ---- weights. A *part* of QM_PART inputs of CK_LANES rows is turned at a time. */

#define QM_PART(type) ((type) == CK_Q6_K ? 128 : QM_IS_K(type) ? 64 : 32)

/* A group's rows are read a block at a time, each row at another place, which no hardware foresees: the bytes of the next group
 * are asked for meanwhile, line by line and in step with the work. */
typedef struct {
    const uint8_t *next, *end;
    int64_t        step; /* bytes for each call of fetch_ahead */
    int64_t        owed;
} CK_ISA(ahead);

CK_FN void CK_ISA(fetch_ahead)(CK_ISA(ahead) *a) {
    for (a->owed += a->step; a->owed >= 64; a->owed -= 64) {
        __builtin_prefetch(a->next < a->end ? a->next : a->end - 1);
        a->next += 64;
    }
}

/* The first 16 bytes of Q4_K and Q5_K: d, the scale of the minima, and 8 scales and 8 minima of 6 bits. */
CK_FN void CK_ISA(factors_of_k)(int type, const uint8_t *const *row, int64_t at, CK_ISA(factors) *to) {
    ck_ints head[4], s[2], m[2];
    CK_ISA(turn_16)(row, at, head);
    const ckv d = CK_ISA(from_half)(head[0] & 0xffff), d_low = CK_ISA(from_half)((head[0] >> 16) & 0xffff);
    s[0] = head[1] & BYTES(63);
    m[0] = head[2] & BYTES(63);
    s[1] = (head[3] & BYTES(15)) | ((head[1] >> 2) & BYTES(48));
    m[1] = ((head[3] >> 4) & BYTES(15)) | ((head[2] >> 2) & BYTES(48));
    to->d[0] = d;
    to->d[1] = -d_low;
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++) {
        for (int i = 0; i < 8 / QM_FOLD(type); i++) {
            CK_ISA(set_scale)(to->scale, j * (8 / QM_FOLD(type)) + i, (s[j / 4] >> (8 * (j % 4))) & 0xff);
        }
        if (j % 2) {
            const ck_ints two = m[j / 4] >> (8 * (j % 4 - 1));
            to->least[j / 2] = CK_ISA(pair)(two & 0xff, (two >> 8) & 0xff);
        }
    }
}

CK_FN void CK_ISA(factors_of_q6_k)(const uint8_t *const *row, int64_t at, CK_ISA(factors) *to) {
    ck_ints s[4], end[4], scale[16];
    CK_ISA(turn_16)(row, at + 192, s);
    CK_ISA(turn_16)(row, at + 194, end);
    to->d[0] = CK_ISA(from_half)((end[3] >> 16) & 0xffff);
#pragma GCC unroll 16
    for (int j = 0; j < 16; j++) {
        scale[j] = (s[j / 4] << (24 - 8 * (j % 4))) >> 24;
        for (int i = 0; i < 4 / QM_FOLD(CK_Q6_K); i++) {
            CK_ISA(set_scale)(to->scale, j * (4 / QM_FOLD(CK_Q6_K)) + i, scale[j]);
        }
        if (QM_OFFSET(CK_Q6_K) == 0 && j % 2) {
            to->least[j / 2] = CK_ISA(pair)(-32 * scale[j - 1], -32 * scale[j]);
        }
    }
}

/* Of block b of 256 inputs; other types: of the n blocks of 32 from 8 b. */
CK_FN void CK_ISA(read_factors)(int type, const uint8_t *const *row, int64_t b, int n, CK_ISA(factors) *to) {
    if (type == CK_Q6_K) {
        CK_ISA(factors_of_q6_k)(row, b * 210, to);
    } else if (QM_IS_K(type)) {
        CK_ISA(factors_of_k)(type, row, b * (type == CK_Q4_K ? 144 : 176), to);
    } else {
        const int64_t size = type == CK_Q8_0 ? 34 : type == CK_Q4_0 ? 18 : 22;
        for (int j = 0; j < n; j++) {
            ck_ints head[4];
            CK_ISA(turn_16)(row, (8 * b + j) * size, head);
            to->d[j] = CK_ISA(from_half)(head[0] & 0xffff);
        }
    }
}

/* Inputs 64 j .. 64 j + 63 of a block. */
CK_FN void CK_ISA(read_q4_k)(const uint8_t *const *row, int64_t b, int j, ck_ints *to) {
    ck_ints q[8];
    CK_ISA(turn_32)(row, b * 144 + 16 + 32 * j, q);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        to[i] = q[i] & BYTES(15);
        to[8 + i] = (q[i] >> 4) & BYTES(15);
    }
}

/* The same; `fifth` holds the block's fifth bits, turned. */
CK_FN void CK_ISA(read_q5_k)(const uint8_t *const *row, int64_t b, int j, const ck_ints *fifth, ck_ints *to) {
    ck_ints q[8];
    CK_ISA(turn_32)(row, b * 176 + 48 + 32 * j, q);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        to[i] = (q[i] & BYTES(15)) | (((fifth[i] >> (2 * j)) & BYTES(1)) << 4);
        to[8 + i] = ((q[i] >> 4) & BYTES(15)) | (((fifth[i] >> (2 * j + 1)) & BYTES(1)) << 4);
    }
}

/* Inputs 128 j .. 128 j + 127. Values 0 .. 63 stand for -32 .. 31: 32 times the sums of the activations are taken away again. */
CK_FN void CK_ISA(read_q6_k)(const uint8_t *const *row, int64_t b, int j, ck_ints *to) {
    ck_ints p[8], q[8], high[8];
    CK_ISA(turn_32)(row, b * 210 + 64 * j, p);
    CK_ISA(turn_32)(row, b * 210 + 64 * j + 32, q);
    CK_ISA(turn_32)(row, b * 210 + 128 + 32 * j, high);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        to[i] = (p[i] & BYTES(15)) | ((high[i] & BYTES(3)) << 4);
        to[8 + i] = (q[i] & BYTES(15)) | ((high[i] & BYTES(12)) << 2);
        to[16 + i] = ((p[i] >> 4) & BYTES(15)) | (high[i] & BYTES(48));
        to[24 + i] = ((q[i] >> 4) & BYTES(15)) | ((high[i] >> 2) & BYTES(48));
    }
}

/* Block b of 32 inputs. */
CK_FN void CK_ISA(read_q8_0)(const uint8_t *const *row, int64_t b, ck_ints *to) {
    ck_ints q[8];
    CK_ISA(turn_32)(row, b * 34 + 2, q);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        if (QM_OFFSET(CK_Q8_0)) {
            q[i] ^= BYTES(0x80);
        }
        to[i] = QM_HALVES(CK_Q8_0) == 2 ? q[i] & BYTES(15) : q[i];
        if (QM_HALVES(CK_Q8_0) == 2) {
            to[8 + i] = (q[i] >> 4) & BYTES(15);
        }
    }
}

CK_FN void CK_ISA(read_q4_0)(const uint8_t *const *row, int64_t b, ck_ints *to) {
    ck_ints q[4];
    CK_ISA(turn_16)(row, b * 18 + 2, q);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        to[i] = q[i] & BYTES(15);
        to[4 + i] = (q[i] >> 4) & BYTES(15);
    }
}

/* Bit j of four goes to byte j: 2^7 + 2^14 + 2^21 + 1 puts it at 8 j, and elsewhere beside a byte's lowest bit. */
CK_FN ck_ints CK_ISA(spread)(ck_ints four) { return (four * 0x204081) & BYTES(1); }

CK_FN void CK_ISA(read_q5_0)(const uint8_t *const *row, int64_t b, ck_ints *to) {
    ck_ints head[4], q[4];
    CK_ISA(turn_16)(row, b * 22, head); /* d, and the 32 fifth bits behind it */
    CK_ISA(turn_16)(row, b * 22 + 6, q);
    const ck_ints fifth = ((head[0] >> 16) & 0xffff) | (head[1] << 16);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        const ck_ints low = i < 4 ? q[i] & BYTES(15) : (q[i - 4] >> 4) & BYTES(15);
        to[i] = low | CK_ISA(spread)((fifth >> (4 * i)) & 15) << 4;
    }
}

CK_FN void CK_ISA(read_fifth)(int type, const uint8_t *const *row, int64_t b, ck_ints *fifth) {
    if (type == CK_Q5_K) {
        CK_ISA(turn_32)(row, b * 176 + 16, fifth);
    }
}

/* Part j of block b of 256 inputs, or block 8 b + j of 32, as QM_STEPS_OF(type) vectors. */
CK_FN void CK_ISA(read_part)(int type, const uint8_t *const *row, int64_t b, int j, const ck_ints *fifth, ck_ints *to) {
    switch (type) {
    case CK_Q4_K: CK_ISA(read_q4_k)(row, b, j, to); break;
    case CK_Q5_K: CK_ISA(read_q5_k)(row, b, j, fifth, to); break;
    case CK_Q6_K: CK_ISA(read_q6_k)(row, b, j, to); break;
    case CK_Q8_0: CK_ISA(read_q8_0)(row, 8 * b + j, to); break;
    case CK_Q4_0: CK_ISA(read_q4_0)(row, 8 * b + j, to); break;
    default: CK_ISA(read_q5_0)(row, 8 * b + j, to); break;
    }
}
#define QM_STEPS_OF(type) (QM_PART(type) / 4 * QM_HALVES(type)) /* in a part */

/* n blocks of 32, or one of 256. */
CK_FN void CK_ISA(unpack)(int type, const uint8_t *const *row, int64_t b, int n, CK_ISA(panel) *to, CK_ISA(ahead) *ahead) {
    const int n_part = n * 32 / QM_PART(type), n_step = QM_STEPS_OF(type);
    for (int r = 0; r < VECTORS; r++, row += CK_LANES) {
        ck_ints fifth[8];
        CK_ISA(read_factors)(type, row, b, n, &to->of[r]);
        CK_ISA(read_fifth)(type, row, b, fifth);
#pragma GCC unroll 1
        for (int j = 0; j < n_part; j++) {
            ck_ints q[32];
            CK_ISA(fetch_ahead)(ahead);
            CK_ISA(read_part)(type, row, b, j, fifth, q);
#pragma GCC unroll 32
            for (int i = 0; i < n_step; i++) {
                to->byte[j * n_step + i][r] = q[i];
            }
        }
    }
}

/* ---- products of n tokens, known to the compiler, `width` of which are side by side in the columns at x: sum[t] += weight . x[t].
 * Number k of token t is x[width k + t]. */

/* part[g][t] += the products of `fold` steps, of n_fold folds that follow each other. */
CK_FN void CK_ISA(steps)(int n, int fold, int n_fold, const ck_ints (*byte)[VECTORS], const int32_t *x,
                         ck_ints (*part)[TOKENS][VECTORS]) {
#pragma GCC unroll 8
    for (int s = 0; s < fold; s++) {
#pragma GCC unroll 2
        for (int g = 0; g < n_fold; g++) {
            const int     at = g * fold + s;
            const ck_ints a = byte[at][0], b = byte[at][1];
#pragma GCC unroll 4
            for (int t = 0; t < n; t++) {
                part[g][t][0] = CK_ISA(step_of)(part[g][t][0], a, x + QM_TILE * at, t);
                part[g][t][1] = CK_ISA(step_of)(part[g][t][1], b, x + QM_TILE * at, t);
            }
        }
    }
}

/* Step `at` of n_step asks for its share of the next tile's columns, which lie in the second cache at best. */
CK_FN void CK_ISA(fetch_next)(int n, int n_step, int at, const int32_t *x) {
    const int n_line = QM_COLUMN * QM_TILE / 16 / n_step;
#pragma GCC unroll 6
    for (int i = 0; n == TOKENS && i < n_line; i++) {
        __builtin_prefetch(x + QM_TILE * QM_COLUMN + 16 * (at * n_line + i));
    }
}

CK_FN void CK_ISA(load_sums)(int n, float (*sum)[ROWS], ckv (*y)[VECTORS]) {
#pragma GCC unroll 4
    for (int t = 0; t < n; t++) {
        y[t][0] = ck_load(sum[t]);
        y[t][1] = ck_load(sum[t] + CK_LANES);
    }
}

CK_FN void CK_ISA(store_sums)(int n, float (*sum)[ROWS], ckv (*y)[VECTORS]) {
#pragma GCC unroll 4
    for (int t = 0; t < n; t++) {
        ck_store(sum[t], y[t][0]);
        ck_store(sum[t] + CK_LANES, y[t][1]);
    }
}

CK_FN ckv CK_ISA(all_of)(const int32_t *x) {
    float f;
    memcpy(&f, x, sizeof f);
    return ck_all(f);
}

/* y[t] += what a block of 256 inputs adds, whose sums of scaled products are total[t]; n_vector vectors of rows each. */
CK_FN void CK_ISA(finish_k)(int type, int n, int n_vector, int width, ck_ints *total, const CK_ISA(factors) *w, const int32_t *x,
                            ckv *y) {
    const int n_least = type != CK_Q6_K ? 4 : QM_OFFSET(type) == 0 ? 8 : 0;
#pragma GCC unroll 4
    for (int t = 0; t < n; t++) {
        const ckv d = CK_ISA(all_of)(x + QM_D * width + t);
#pragma GCC unroll 2
        for (int r = 0; r < n_vector; r++, total++, y++) {
            ck_ints least = {0};
#pragma GCC unroll 8
            for (int j = 0; j < n_least; j++) {
                least = CK_ISA(add_pairs)(least, w[r].least[j], CK_ISA(all_ints)(x[(QM_SUMS + j) * width + t]));
            }
            if (type == CK_Q6_K) { /* its least value is a number of scales */
                *y = ck_fma(d, w[r].d[0] * __builtin_convertvector(*total + least, ckv), *y);
            } else {
                const ckv sum = w[r].d[0] * __builtin_convertvector(*total, ckv);
                *y = ck_fma(d, ck_fma(w[r].d[1], __builtin_convertvector(least, ckv), sum), *y);
            }
        }
    }
}

CK_FN void CK_ISA(tile_k)(int type, int n, int wide, const CK_ISA(panel) *w, const int32_t *x, float (*sum)[ROWS]) {
    ck_ints   total[TOKENS][VECTORS];
    const int fold = QM_FOLD(type);
#pragma GCC unroll 4
    for (int t = 0; t < n; t++) {
        total[t][0] = total[t][1] = (ck_ints){0};
    }
    for (int f = 0; f < 64 / fold; f += FOLDS) {
        ck_ints part[FOLDS][TOKENS][VECTORS];
#pragma GCC unroll 2
        for (int g = 0; g < FOLDS; g++) {
#pragma GCC unroll 4
            for (int t = 0; t < n; t++) {
                part[g][t][0] = part[g][t][1] =
                    QM_OFFSET(type) ? CK_ISA(all_ints)(x[(QM_START + f + g) * QM_TILE + t]) : (ck_ints){0};
            }
        }
        CK_ISA(steps)(n, fold, FOLDS, w->byte + f * fold, x + f * fold * QM_TILE, part);
        CK_ISA(fetch_next)(n, 64 / fold / FOLDS, f / FOLDS, x);
#pragma GCC unroll 4
        for (int t = 0; t < n; t++) {
            for (int r = 0; r < VECTORS; r++) {
                const ck_ints first = part[0][t][r], last = part[FOLDS - 1][t][r];
                total[t][r] = CK_ISA(fold)(wide, total[t][r], first, last, w->of[r].scale[f / FOLDS]);
            }
        }
    }
    ckv y[TOKENS][VECTORS];
    CK_ISA(load_sums)(n, sum, y);
    CK_ISA(finish_k)(type, n, VECTORS, QM_TILE, total[0], w->of, x, y[0]);
    CK_ISA(store_sums)(n, sum, y);
}

/* n_block blocks of 32 inputs from j, each with a scale of its own on both sides. */
CK_FN void CK_ISA(blocks)(int type, int n, int n_block, int j, const CK_ISA(panel) *w, const int32_t *x, ckv (*y)[VECTORS]) {
    (void)type;
    ck_ints part[FOLDS][TOKENS][VECTORS];
#if QM_SUMS_16
    ck_ints         total[TOKENS][VECTORS];
    const int       fold = QM_FOLD(type), n_fold = QM_STEPS_OF(type) / fold;
    const ck_ints (*byte)[VECTORS] = w->byte + QM_STEPS_OF(type) * j;
#pragma GCC unroll 4
    for (int t = 0; t < n; t++) {
        total[t][0] = total[t][1] = CK_ISA(all_ints)(x[(QM_START + j) * QM_TILE + t]);
    }
#pragma GCC unroll 2
    for (int f = 0; f < n_fold; f++) {
        const ck_ints scale = CK_ISA(all_ints)((type == CK_Q8_0 && f == 1 ? 16 : 1) * 0x10001);
#pragma GCC unroll 4
        for (int t = 0; t < n; t++) {
            part[0][t][0] = part[0][t][1] = (ck_ints){0};
        }
        CK_ISA(steps)(n, fold, 1, byte + f * fold, x + (8 * j + f * fold % 8) * QM_TILE, part);
#pragma GCC unroll 4
        for (int t = 0; t < n; t++) {
            total[t][0] = CK_ISA(add_pairs)(total[t][0], part[0][t][0], scale);
            total[t][1] = CK_ISA(add_pairs)(total[t][1], part[0][t][1], scale);
        }
    }
    memcpy(part, total, sizeof part);
#else
#pragma GCC unroll 2
    for (int g = 0; g < n_block; g++) {
#pragma GCC unroll 4
        for (int t = 0; t < n; t++) {
            part[g][t][0] = part[g][t][1] = CK_ISA(all_ints)(x[(QM_START + j + g) * QM_TILE + t]);
        }
    }
    CK_ISA(steps)(n, 8, n_block, w->byte + 8 * j, x + 8 * j * QM_TILE, part);
    CK_ISA(fetch_next)(n, 8 / n_block, j / n_block, x);
#endif
#pragma GCC unroll 2
    for (int g = 0; g < n_block; g++) {
#pragma GCC unroll 4
        for (int t = 0; t < n; t++) {
            const ckv d = CK_ISA(all_of)(x + (QM_D + j + g) * QM_TILE + t);
            y[t][0] = ck_fma(d * w->of[0].d[j + g], __builtin_convertvector(part[g][t][0], ckv), y[t][0]);
            y[t][1] = ck_fma(d * w->of[1].d[j + g], __builtin_convertvector(part[g][t][1], ckv), y[t][1]);
        }
    }
}

CK_FN void CK_ISA(tile_32)(int type, int n, int n_32, const CK_ISA(panel) *w, const int32_t *x, float (*sum)[ROWS]) {
    ckv y[TOKENS][VECTORS];
    int j = 0;
    CK_ISA(load_sums)(n, sum, y);
    for (; j + FOLDS <= n_32; j += FOLDS) {
        CK_ISA(blocks)(type, n, FOLDS, j, w, x, y);
    }
    for (; FOLDS > 1 && j < n_32; j++) {
        CK_ISA(blocks)(type, n, 1, j, w, x, y);
    }
    CK_ISA(store_sums)(n, sum, y);
}

CK_FN int CK_ISA(is_wide)(int type, int n, const int32_t *x) {
    int wide = 0;
    for (int t = 0; QM_VNNI && QM_IS_K(type) && t < n; t++) {
        wide |= x[QM_WIDE * QM_TILE + t];
    }
    return wide;
}

CK_FN void CK_ISA(tile)(int type, int n, int n_32, int wide, const CK_ISA(panel) *w, const int32_t *x, float (*sum)[ROWS]) {
    if (!QM_IS_K(type)) {
        CK_ISA(tile_32)(type, n, n_32, w, x, sum);
    } else {
        CK_ISA(tile_k)(type, n, wide, w, x, sum);
    }
}

#include "qmatmul_single.h"

/* Row pointers of a group; behind the last row of the matrix the last one again. */
CK_FN void CK_ISA(point_at_rows)(const product *p, int64_t first, const uint8_t **row) {
    for (int i = 0; i < ROWS; i++) {
        row[i] = p->weight + (first + i < p->N ? first + i : p->N - 1) * p->row_bytes;
    }
}

/* Where n tokens from t on are done: while others are multiplied, stores to as many pages have time. */
CK_FN void CK_ISA(store_rows)(const product *p, const batch *tokens, int64_t first, int64_t t, int64_t n, float (*sum)[ROWS]) {
    for (const int64_t end = t + n; t < end; t++) {
        if (p->N - first >= ROWS) {
            ck_store(tokens->y[t] + first, ck_load(sum[t]));
            ck_store(tokens->y[t] + first + CK_LANES, ck_load(sum[t] + CK_LANES));
        } else {
            memcpy(tokens->y[t] + first, sum[t], (size_t)(p->N - first) * sizeof(float));
        }
    }
}

CK_FN CK_ISA(ahead) CK_ISA(start_ahead)(const product *p, int64_t first, int64_t n_call) {
    const uint8_t *end = p->weight + p->N * p->row_bytes, *next = p->weight + (first + ROWS) * p->row_bytes;
    return (CK_ISA(ahead)){next, end, ROWS * p->row_bytes / n_call, 63};
}

/* Blocks of 32 inputs in panel b. */
CK_FN int CK_ISA(blocks_of)(const product *p, int64_t b) {
    const int64_t left = p->K - b * QM_INPUTS;
    return (int)(left < QM_INPUTS ? left : QM_INPUTS) / 32;
}

typedef void CK_ISA(tile_function)(int n, int n_32, const CK_ISA(panel) *w, const int32_t *x, float (*sum)[ROWS]);
typedef void CK_ISA(alone_function)(int n_32, const uint8_t *const *row, int64_t b, const int32_t *x, float *sum,
                                    CK_ISA(ahead) *ahead);

CK_FN void CK_ISA(multiply_group)(int type, CK_ISA(tile_function) *tiles, CK_ISA(alone_function) *alone, const product *p,
                                  const batch *tokens, int64_t first) {
    float          sum[QM_BATCH][ROWS];
    CK_ISA(panel)  w;
    const uint8_t *row[ROWS];
    const int64_t  n_panel = (p->K + QM_INPUTS - 1) / QM_INPUTS;
    CK_ISA(point_at_rows)(p, first, row);
    memset(sum, 0, (size_t)tokens->n * sizeof *sum);
    CK_ISA(ahead) ahead =
        CK_ISA(start_ahead)(p, first, VECTORS * (tokens->alone ? tokens->n : 1) * (p->K / QM_PART(type)));
    if (tokens->alone) {
        for (int i = 0; i < VECTORS * tokens->n; i++) {
            const int r = CK_LANES * (int)(i / tokens->n), t = (int)(i % tokens->n);
            for (int64_t b = 0; b < n_panel; b++) {
                const column *x = p->columns + b * p->n_column + tokens->x[t];
                alone(CK_ISA(blocks_of)(p, b), row + r, b, x->number, sum[t] + r, &ahead);
            }
        }
        CK_ISA(store_rows)(p, tokens, first, 0, tokens->n, sum);
        return;
    }
    for (int64_t b = 0; b < n_panel; b++) {
        const int     n_32 = CK_ISA(blocks_of)(p, b);
        const column *x = p->columns + b * p->n_column;
        CK_ISA(unpack)(type, row, b, n_32, &w, &ahead);
        for (int64_t t = 0; t < tokens->n; t += QM_TILE) {
            const int n = (int)(tokens->n - t < QM_TILE ? tokens->n - t : QM_TILE);
            tiles(n, n_32, &w, x[tokens->x[t]].number, sum + t);
            if (b == n_panel - 1) {
                CK_ISA(store_rows)(p, tokens, first, t, n, sum);
            }
        }
    }
}

/* Functions of their own, each with all registers: inlined into one, the compiler runs out of them. A token whose sums may be wide
 * takes those with it to the slower form; one alone always takes it. */
#define QM_TILES(name, type, n_token, wide)                                                                            \
    static __attribute__((noinline)) void CK_ISA(name)(int n_32, const CK_ISA(panel) *w, const int32_t *x,            \
                                                       float (*sum)[ROWS]) {                                          \
        CK_ISA(tile)(type, n_token, n_32, wide, w, x, sum);                                                            \
    }
#define QM_TYPE(name, type)                                                                                            \
    QM_TILES(full_##name, type, TOKENS, 0)                                                                             \
    QM_TILES(wide_##name, type, TOKENS, QM_IS_K(type))                                                                 \
    QM_TILES(two_##name, type, 2, 0)                                                                                   \
    QM_TILES(one_##name, type, 1, QM_IS_K(type))                                                                       \
    static void CK_ISA(tiles_##name)(int n, int n_32, const CK_ISA(panel) *w, const int32_t *x, float (*sum)[ROWS]) { \
        int t = 0;                                                                                                     \
        for (; t + TOKENS <= n; t += TOKENS) {                                                                         \
            (CK_ISA(is_wide)(type, TOKENS, x + t) ? CK_ISA(wide_##name) : CK_ISA(full_##name))(n_32, w, x + t, sum + t); \
        }                                                                                                              \
        while (t < n) {                                                                                                \
            const int two = t + 2 <= n && !CK_ISA(is_wide)(type, 2, x + t);                                            \
            (two ? CK_ISA(two_##name) : CK_ISA(one_##name))(n_32, w, x + t, sum + t);                                  \
            t += two ? 2 : 1;                                                                                          \
        }                                                                                                              \
    }                                                                                                                  \
    static __attribute__((noinline)) void CK_ISA(alone_##name)(int n_32, const uint8_t *const *row, int64_t b,        \
                                                               const int32_t *x, float *sum, CK_ISA(ahead) *ahead) {  \
        CK_ISA(alone)(type, n_32, row, b, x, sum, ahead);                                                              \
    }                                                                                                                  \
    static __attribute__((noinline)) void CK_ISA(group_##name)(const product *p, const batch *tokens, int64_t first) { \
        CK_ISA(multiply_group)(type, CK_ISA(tiles_##name), CK_ISA(alone_##name), p, tokens, first);                    \
    }
QM_TYPE(q4_k, CK_Q4_K)
QM_TYPE(q5_k, CK_Q5_K)
QM_TYPE(q6_k, CK_Q6_K)
QM_TYPE(q8_0, CK_Q8_0)
QM_TYPE(q4_0, CK_Q4_0)
QM_TYPE(q5_0, CK_Q5_0)
#undef QM_TYPE
#undef QM_TILES

#include "qmatmul_floats.h"

/* Rows first .. end of the weight times one batch; first is a multiple of QM_SHARE. */
static void CK_ISA(multiply)(const product *p, const batch *tokens, int64_t first, int64_t end) {
    for (; first < end; first += ROWS) {
        switch (p->type) {
        case CK_Q4_K: CK_ISA(group_q4_k)(p, tokens, first); break;
        case CK_Q5_K: CK_ISA(group_q5_k)(p, tokens, first); break;
        case CK_Q6_K: CK_ISA(group_q6_k)(p, tokens, first); break;
        case CK_Q8_0: CK_ISA(group_q8_0)(p, tokens, first); break;
        case CK_Q4_0: CK_ISA(group_q4_0)(p, tokens, first); break;
        case CK_Q5_0: CK_ISA(group_q5_0)(p, tokens, first); break;
        case CK_F16: CK_ISA(multiply_floats)(CK_F16, p, tokens, first); break;
        case CK_BF16: CK_ISA(multiply_floats)(CK_BF16, p, tokens, first); break;
        default: CK_ISA(multiply_floats)(CK_F32, p, tokens, first); break;
        }
    }
}
#undef VECTORS
#undef ROWS
#undef TOKENS
#undef FOLDS
#undef DEEP
#undef BYTES
#undef QM_PART
#undef QM_STEPS_OF
#undef QM_KEEP
#undef QM_FOLD
#undef QM_HALVES
#undef QM_LARGEST
#undef QM_OFFSET
#undef QM_VNNI
#undef QM_SUMS_16
