/* The loops of conifer.qmatmul/1, for one instruction set. Included by qmatmul.c through conifer_simd.h.
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
enum { CK_ISA(QM_TOKENS) = CK_LANES == 16 ? 8 : 4 };
#endif
#define VECTORS CK_ISA(QM_VECTORS)
#define ROWS CK_ISA(QM_ROWS)
#define TOKENS CK_ISA(QM_TOKENS)

#define BYTES(x) ((int32_t)(0x01010101u * (x)))

/* The factors of QM_INPUTS inputs of CK_LANES rows. */
typedef struct {
    ck_ints scale[32]; /* one for each fold */
    ckv     low[8];    /* Q4_K, Q5_K: factors of the sums of 32 activations */
    ckv     d[8];      /* of each 32 inputs; K types: the first */
#if CK_LANES == 8
    ck_ints pairs[8]; /* Q6_K: pairs of 16-bit factors of the sums of 16 activations */
#endif
} CK_ISA(factors);

typedef struct {
    ck_ints         byte[CK_LANES == 8 ? 128 : 64][VECTORS];
    CK_ISA(factors) of[VECTORS];
} CK_ISA(panel);

/* ---- activations */

/* x times the activation of its gate, x sigmoid(gate) [gate]. n is a multiple of 32 here and below. */
static void CK_ISA(apply_gate)(const float *x, const float *gate, int64_t n, int sigmoid, float *to) {
    for (int64_t i = 0; i < n; i += 32) {
        ckv g[32 / CK_LANES], e[32 / CK_LANES]; /* side by side: an exponential is a long chain */
#pragma GCC unroll 8
        for (int j = 0; j < 32 / CK_LANES; j++) {
            g[j] = ck_load(gate + i + j * CK_LANES);
            e[j] = -g[j];
        }
        ck_exps(32 / CK_LANES, e);
#pragma GCC unroll 8
        for (int j = 0; j < 32 / CK_LANES; j++) {
            const ckv act = (sigmoid ? ck_all(1.0f) : g[j]) / (e[j] + 1.0f);
            ck_store(to + i + j * CK_LANES, act * ck_load(x + i + j * CK_LANES));
        }
    }
}

static void CK_ISA(sum_squares)(const float *x, int64_t n, float *sum) {
    ckv part[16 / CK_LANES];
    for (int j = 0; j < 16 / CK_LANES; j++) {
        part[j] = ck_all(0.0f);
    }
    for (int64_t i = 0; i < n; i += 16) {
        for (int j = 0; j < 16 / CK_LANES; j++) {
            const ckv v = ck_load(x + i + j * CK_LANES);
            part[j] = ck_fma(v, v, part[j]);
        }
    }
    for (int j = 1; j < 16 / CK_LANES; j++) {
        part[0] += part[j];
    }
    *sum = ck_sum(part[0]);
}

static void CK_ISA(apply_norm)(const float *x, const float *norm, int64_t n, float scale, float *to) {
    for (int64_t i = 0; i < n; i += CK_LANES) {
        ck_store(to + i, ck_load(x + i) * ck_all(scale) * ck_load(norm + i));
    }
}

/* d = max |x| / 127 of n activations, and the factor 1 / d. Where one is not finite d is NaN, and so is the product. */
CK_FN ckv CK_ISA(block_scale)(const float *x, int n, float *d) {
    ckv most = ck_all(0.0f), odd = ck_all(0.0f);
    for (int i = 0; i < n; i += CK_LANES) {
        const ckv v = ck_load(x + i);
        most = ck_max(most, (ckv)((ck_ints)v & 0x7fffffff));
        odd += v - v; /* 0, or NaN for ever */
    }
    const float largest = CK_ISA(largest)(most), wrong = ck_sum(odd);
    *d = wrong == 0.0f ? largest / 127.0f : NAN;
    return ck_all(wrong == 0.0f && largest > 0.0f ? 127.0f / largest : 0.0f);
}

/* 16 activations to 8 bits; adds them and their sizes lane by lane. */
CK_FN void CK_ISA(round_16)(const float *x, ckv factor, int8_t *to, ck_ints *sum, ck_ints *size) {
    ck_ints q[16 / CK_LANES];
    for (int i = 0; i < 16 / CK_LANES; i++) {
        ckv v = factor * ck_load(x + i * CK_LANES);
        v = (ckv)((ck_ints)v & (v == v));
        q[i] = __builtin_convertvector(CK_ISA(ck_nearest)(v), ck_ints);
        *sum += q[i];
        *size += (q[i] ^ (q[i] >> 31)) - (q[i] >> 31);
    }
    CK_ISA(narrow_16)(q, to);
}

/* The sums, or of sizes, of each 16 of 256 numbers: from their bytes, or from the vectors `rows` that lanes were added to. */
CK_FN void CK_ISA(sums_of_16)(const int8_t *q, const ck_ints *rows, int32_t *sum, int is_signed) {
#if CK_LANES == 16
    ck_ints fours[4];
    for (int i = 0; i < 4; i++) {
        const ck_ints v = CK_ISA(bytes_64)(q + 64 * i), ones = CK_ISA(all_ints)(BYTES(1));
        const ck_ints size = (ck_ints)_mm512_abs_epi8((__m512i)v);
        fours[i] = is_signed ? CK_ISA(step)((ck_ints){0}, ones, v) : CK_ISA(step)((ck_ints){0}, size, ones);
    }
    const ck_ints v = CK_ISA(sums_of_quarters)(fours);
    const ck_ints turned = __builtin_shufflevector(v, v, 0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    (void)rows;
    memcpy(sum, &turned, sizeof turned);
#else
    (void)q, (void)is_signed;
    for (int i = 0; i < 16; i += CK_LANES) {
        const ck_ints v = CK_ISA(sums_of)(rows + i);
        memcpy(sum + i, &v, sizeof v);
    }
#endif
}

CK_FN void CK_ISA(round_k)(int type, const float *x, column *to) {
    float     d;
    const ckv factor = CK_ISA(block_scale)(x, QM_INPUTS, &d);
    int32_t   sum[16], size[16] = {0};
    ck_ints   sums[16], sizes[16];
    for (int i = 0; i < 16; i++) {
        sums[i] = sizes[i] = (ck_ints){0};
        CK_ISA(round_16)(x + 16 * i, factor, (int8_t *)(to->number + 4 * i), &sums[i], &sizes[i]);
    }
    CK_ISA(sums_of_16)((const int8_t *)to->number, sums, sum, 1);
    if (QM_CENTRE(type) > 8) { /* 8 * 32 * 127 fits */
        CK_ISA(sums_of_16)((const int8_t *)to->number, sizes, size, 0);
    }
    const int     n = type == CK_Q6_K ? 16 : 8; /* sums of 16 or of 32 */
    const int32_t centre = QM_CENTRE(type);
    int32_t       wide = 0;
    for (int i = 0; i < n; i++) {
        const int32_t all = n == 16 ? sum[i] : sum[2 * i] + sum[2 * i + 1];
        const int32_t most = n == 16 ? size[i] : size[2 * i] + size[2 * i + 1];
        const float   share = d * (float)all;
        to->number[QM_START + i] = -centre * all;
        wide |= centre * most > INT16_MAX;
        if (n == 8) {
            memcpy(to->number + QM_SUMS + i, &share, sizeof share);
        } else if (i % 2) {
            to->number[QM_SUMS + i / 2] = (int32_t)((uint32_t)all << 16 | (sum[i - 1] & 0xffff));
        }
    }
    memcpy(to->number + QM_D, &d, sizeof d);
    to->number[QM_WIDE] = wide;
}

CK_FN void CK_ISA(round_32)(int type, const float *x, int i, column *to) {
    float     d;
    const ckv factor = CK_ISA(block_scale)(x, 32, &d);
    int8_t   *q = (int8_t *)(to->number + 8 * i);
    ck_ints   sum = {0}, size = {0};
    CK_ISA(round_16)(x, factor, q, &sum, &size);
    CK_ISA(round_16)(x + 16, factor, q + 16, &sum, &size);
    to->number[QM_START + i] = QM_OFFSET(type) ? -QM_OFFSET(type) * CK_ISA(sum_of)(sum) : 0;
    memcpy(to->number + QM_D + i, &d, sizeof d);
}

/* The columns of one token, `stride` columns apart. */
static void CK_ISA(round_row)(const product *p, const float *x, int64_t stride, column *to) {
    for (int64_t k = 0; k < p->K; k += QM_INPUTS, to += stride) {
        switch (p->type) {
        case CK_Q4_K: CK_ISA(round_k)(CK_Q4_K, x + k, to); break;
        case CK_Q5_K: CK_ISA(round_k)(CK_Q5_K, x + k, to); break;
        case CK_Q6_K: CK_ISA(round_k)(CK_Q6_K, x + k, to); break;
        default:
            for (int i = 0; i < 8 && k + 32 * i < p->K; i++) {
                CK_ISA(round_32)(p->type, x + k + 32 * i, i, to);
            }
            break;
        }
    }
}

/* n <= QM_TILE columns side by side: number k of token t at QM_TILE k + t. */
static void CK_ISA(interleave)(const column *const *from, int n, column *to) {
    float *at = (float *)to->number; /* moved, not read */
    for (int k = 0; k < QM_COLUMN; k += CK_LANES, at += QM_TILE * CK_LANES) {
        ckv row[QM_TILE];
#pragma GCC unroll 8
        for (int t = 0; t < QM_TILE; t++) {
            row[t] = ck_load((const float *)(from[t < n ? t : 0]->number + k));
        }
        CK_ISA(ck_interleave)(QM_TILE, row);
#pragma GCC unroll 8
        for (int t = 0; t < QM_TILE; t++) {
            ck_store(at + t * CK_LANES, row[t]);
        }
    }
}

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
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++) {
        const ck_ints scale = (s[j / 4] >> (8 * (j % 4))) & 0xff, least = (m[j / 4] >> (8 * (j % 4))) & 0xff;
        for (int i = 0; i < 8 / QM_FOLD(type); i++) {
            to->scale[j * (8 / QM_FOLD(type)) + i] = CK_ISA(scale)(scale);
        }
        const ckv low = d_low * __builtin_convertvector(least, ckv);
        to->low[j] = (float)QM_CENTRE(type) * d * __builtin_convertvector(scale, ckv) - low;
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
            to->scale[j * (4 / QM_FOLD(CK_Q6_K)) + i] = CK_ISA(scale)(scale[j]);
        }
    }
#if CK_LANES == 8
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        to->pairs[i] = ((-32 * scale[2 * i]) & 0xffff) | ((-32 * scale[2 * i + 1]) << 16);
    }
#endif
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

/* part[t] += the products of `fold` steps. */
CK_FN void CK_ISA(steps)(int n, int fold, const ck_ints (*byte)[VECTORS], const int32_t *x, ck_ints (*part)[VECTORS]) {
#pragma GCC unroll 8
    for (int s = 0; s < fold; s++) {
        const ck_ints a = byte[s][0], b = byte[s][1];
#pragma GCC unroll 8
        for (int t = 0; t < n; t++) {
            const ck_ints v = CK_ISA(all_ints)(x[QM_TILE * s + t]);
            part[t][0] = CK_ISA(step)(part[t][0], a, v);
            part[t][1] = CK_ISA(step)(part[t][1], b, v);
        }
    }
}

/* Step `at` of n_step asks for its share of the next tile's columns, which lie in the second cache at best. */
CK_FN void CK_ISA(fetch_next)(int n, int n_step, int at, const int32_t *x) {
    const int n_line = QM_COLUMN * QM_TILE / 16 / n_step;
#pragma GCC unroll 6
    for (int i = 0; n == QM_TILE && i < n_line; i++) {
        __builtin_prefetch(x + QM_TILE * QM_COLUMN + 16 * (at * n_line + i));
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
#pragma GCC unroll 8
    for (int t = 0; t < n; t++) {
        const ckv d = CK_ISA(all_of)(x + QM_D * width + t);
#pragma GCC unroll 2
        for (int r = 0; r < n_vector; r++) {
            const int i = t * n_vector + r;
#if CK_LANES == 8
            for (int j = 0; type == CK_Q6_K && j < 8; j++) {
                total[i] = CK_ISA(add_pairs)(total[i], w[r].pairs[j], CK_ISA(all_ints)(x[(QM_SUMS + j) * width + t]));
            }
#endif
            y[i] = ck_fma(d * w[r].d[0], __builtin_convertvector(total[i], ckv), y[i]);
        }
    }
#pragma GCC unroll 8
    for (int j = 0; type != CK_Q6_K && j < 8; j++) {
#pragma GCC unroll 8
        for (int t = 0; t < n; t++) {
            const ckv share = CK_ISA(all_of)(x + (QM_SUMS + j) * width + t);
#pragma GCC unroll 2
            for (int r = 0; r < n_vector; r++) {
                y[t * n_vector + r] = ck_fma(share, w[r].low[j], y[t * n_vector + r]);
            }
        }
    }
}

CK_FN void CK_ISA(tile_k)(int type, int n, int wide, const CK_ISA(panel) *w, const int32_t *x, float (*sum)[ROWS]) {
    ck_ints   total[TOKENS][VECTORS];
    const int fold = QM_FOLD(type);
#pragma GCC unroll 8
    for (int t = 0; t < n; t++) {
        total[t][0] = total[t][1] = (ck_ints){0};
    }
    for (int f = 0; f < 64 / fold; f++) {
        ck_ints part[TOKENS][VECTORS];
#pragma GCC unroll 8
        for (int t = 0; t < n; t++) {
            part[t][0] = part[t][1] =
                QM_CENTRE(type) ? CK_ISA(all_ints)(x[(QM_START + f) * QM_TILE + t]) : (ck_ints){0};
        }
        CK_ISA(steps)(n, fold, w->byte + f * fold, x + f * fold * QM_TILE, part);
        CK_ISA(fetch_next)(n, 64 / fold, f, x);
#pragma GCC unroll 8
        for (int t = 0; t < n; t++) {
            total[t][0] = CK_ISA(fold)(wide, total[t][0], part[t][0], w->of[0].scale[f]);
            total[t][1] = CK_ISA(fold)(wide, total[t][1], part[t][1], w->of[1].scale[f]);
        }
    }
    ckv y[TOKENS][VECTORS];
#pragma GCC unroll 8
    for (int t = 0; t < n; t++) {
        y[t][0] = ck_load(sum[t]);
        y[t][1] = ck_load(sum[t] + CK_LANES);
    }
    CK_ISA(finish_k)(type, n, VECTORS, QM_TILE, total[0], w->of, x, y[0]);
#pragma GCC unroll 8
    for (int t = 0; t < n; t++) {
        ck_store(sum[t], y[t][0]);
        ck_store(sum[t] + CK_LANES, y[t][1]);
    }
}

/* n_32 blocks of 32 inputs, each with a scale of its own on both sides. */
CK_FN void CK_ISA(tile_32)(int type, int n, int n_32, const CK_ISA(panel) *w, const int32_t *x, float (*sum)[ROWS]) {
    (void)type;
    ckv y[TOKENS][VECTORS];
#pragma GCC unroll 8
    for (int t = 0; t < n; t++) {
        y[t][0] = ck_load(sum[t]);
        y[t][1] = ck_load(sum[t] + CK_LANES);
    }
    for (int j = 0; j < n_32; j++) {
        ck_ints part[TOKENS][VECTORS];
#if CK_LANES == 8
        ck_ints         total[TOKENS][VECTORS];
        const int       fold = QM_FOLD(type), n_fold = QM_STEPS_OF(type) / fold;
        const ck_ints (*byte)[VECTORS] = w->byte + QM_STEPS_OF(type) * j;
#pragma GCC unroll 8
        for (int t = 0; t < n; t++) {
            total[t][0] = total[t][1] = CK_ISA(all_ints)(x[(QM_START + j) * QM_TILE + t]);
        }
#pragma GCC unroll 2
        for (int f = 0; f < n_fold; f++) {
            const ck_ints scale = CK_ISA(scale)(CK_ISA(all_ints)(type == CK_Q8_0 && f == 1 ? 16 : 1));
#pragma GCC unroll 8
            for (int t = 0; t < n; t++) {
                part[t][0] = part[t][1] = (ck_ints){0};
            }
            CK_ISA(steps)(n, fold, byte + f * fold, x + (8 * j + f * fold % 8) * QM_TILE, part);
#pragma GCC unroll 8
            for (int t = 0; t < n; t++) {
                total[t][0] = CK_ISA(fold)(0, total[t][0], part[t][0], scale);
                total[t][1] = CK_ISA(fold)(0, total[t][1], part[t][1], scale);
            }
        }
        memcpy(part, total, sizeof part);
#else
#pragma GCC unroll 8
        for (int t = 0; t < n; t++) {
            part[t][0] = part[t][1] = CK_ISA(all_ints)(x[(QM_START + j) * QM_TILE + t]);
        }
        CK_ISA(steps)(n, 8, w->byte + 8 * j, x + 8 * j * QM_TILE, part);
        CK_ISA(fetch_next)(n, 8, j, x);
#endif
#pragma GCC unroll 8
        for (int t = 0; t < n; t++) {
            const ckv d = CK_ISA(all_of)(x + (QM_D + j) * QM_TILE + t);
            y[t][0] = ck_fma(d * w->of[0].d[j], __builtin_convertvector(part[t][0], ckv), y[t][0]);
            y[t][1] = ck_fma(d * w->of[1].d[j], __builtin_convertvector(part[t][1], ckv), y[t][1]);
        }
    }
#pragma GCC unroll 8
    for (int t = 0; t < n; t++) {
        ck_store(sum[t], y[t][0]);
        ck_store(sum[t] + CK_LANES, y[t][1]);
    }
}

CK_FN int CK_ISA(is_wide)(int type, int n, const int32_t *x) {
    (void)type;
    int wide = 0;
    for (int t = 0; CK_LANES == 16 && QM_CENTRE(type) > 8 && t < n; t++) {
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

/* ---- products of one token, whose column lies by itself: nothing is stored between unpacking and multiplying.
 * The same numbers in the same order, so the same bits. */

CK_FN ckv CK_ISA(alone_32)(int type, int n_32, const uint8_t *const *row, int64_t b, const int32_t *x, ckv y,
                           CK_ISA(ahead) *ahead) {
    const int       fold = CK_LANES == 8 ? QM_FOLD(type) : 8, n_fold = QM_STEPS_OF(type) / fold;
    CK_ISA(factors) w;
    CK_ISA(read_factors)(type, row, b, n_32, &w);
    for (int j = 0; j < n_32; j++) {
        ck_ints q[32], total = CK_ISA(all_ints)(x[QM_START + j]);
        CK_ISA(fetch_ahead)(ahead);
        CK_ISA(read_part)(type, row, b, j, NULL, q);
#pragma GCC unroll 2
        for (int f = 0; f < n_fold; f++) {
            ck_ints part = CK_LANES == 8 ? (ck_ints){0} : total;
#pragma GCC unroll 8
            for (int s = 0; s < fold; s++) {
                part = CK_ISA(step)(part, q[f * fold + s], CK_ISA(all_ints)(x[8 * j + f * fold % 8 + s]));
            }
            const ck_ints scale = CK_ISA(scale)(CK_ISA(all_ints)(type == CK_Q8_0 && f == 1 ? 16 : 1));
            total = CK_LANES == 8 ? CK_ISA(fold)(0, total, part, scale) : part;
        }
        y = ck_fma(CK_ISA(all_of)(x + QM_D + j) * w.d[j], __builtin_convertvector(total, ckv), y);
    }
    return y;
}

#if CK_LANES == 16
/* AVX-512 need not turn weights for it: row after row is multiplied as it lies, and what is turned are the sums. A *unit* is 64
 * inputs of a row, or 128 of which low and high halves of bytes are units. */

/* Byte for byte, the two units of the 64 bytes from input 128 n of a block at p. */
CK_FN void CK_ISA(units_of_k)(int type, const uint8_t *p, int n, ck_ints *low, ck_ints *high) {
    const ck_ints q = CK_ISA(bytes_64)(p + (type == CK_Q4_K ? 16 : type == CK_Q5_K ? 48 : 0) + 64 * n);
    *low = q & BYTES(15);
    *high = (q >> 4) & BYTES(15);
    if (type == CK_Q5_K) {
        const ck_ints bits = CK_ISA(bytes_of_two)(p + 16, p + 16), half = {0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 2, 2, 2, 2, 2, 2};
        *low |= ((bits >> (half + 4 * n)) & BYTES(1)) << 4;
        *high |= ((bits >> (half + 4 * n + 1)) & BYTES(1)) << 4;
    } else if (type == CK_Q6_K) {
        const ck_ints bits = CK_ISA(bytes_of_two)(p + 128 + 32 * n, p + 128 + 32 * n);
        const ck_ints half = {0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 2, 2, 2, 2, 2, 2};
        *low |= ((bits >> half) & BYTES(3)) << 4;
        *high |= (bits >> half) & BYTES(48);
    }
}

/* - offset * the sum of each four activations, where sums of products begin. */
CK_FN ck_ints CK_ISA(start_at)(int offset, ck_ints x) { return -CK_ISA(step)((ck_ints){0}, CK_ISA(all_ints)(BYTES(offset)), x); }

CK_FN ckv CK_ISA(rows_k)(int type, const uint8_t *const *row, int64_t b, const int32_t *x, ckv y, int64_t next) {
    const int       size = type == CK_Q4_K ? 144 : type == CK_Q5_K ? 176 : 210, n_part = type == CK_Q6_K ? 4 : 2;
    CK_ISA(factors) w;
    ck_ints         total = {0};
    CK_ISA(read_factors)(type, row, b, 8, &w);
#pragma GCC unroll 1
    for (int n = 0; n < 2; n++, x += 32) {
        /* Of Q4_K and Q5_K the low halves of 64 bytes are the first and the third 32 inputs of 128. */
        const int     second = type == CK_Q6_K ? 8 : 16;
        const ck_ints x_low = CK_ISA(bytes_of_two)(x, x + second), x_high = CK_ISA(bytes_of_two)(x + 24 - second, x + 24);
        const ck_ints start_low = CK_ISA(start_at)(QM_CENTRE(type), x_low);
        const ck_ints start_high = CK_ISA(start_at)(QM_CENTRE(type), x_high);
        ck_ints       low[4], high[4], part[8];
#pragma GCC unroll 1
        for (int i = 0; i < 4; i++) {
            ck_ints of_low[4], of_high[4];
#pragma GCC unroll 4
            for (int r = 0; r < 4; r++) {
                const uint8_t *p = row[4 * i + r] + b * size;
                ck_ints        q_low, q_high;
                __builtin_prefetch(p + next + size / 2 * n);
                __builtin_prefetch(p + next + size / 2 * n + 64);
                CK_ISA(units_of_k)(type, p, n, &q_low, &q_high);
                of_low[r] = CK_ISA(step)(start_low, q_low, x_low);
                of_high[r] = CK_ISA(step)(start_high, q_high, x_high);
            }
            low[i] = CK_ISA(sums_of_quarters)(of_low);
            high[i] = CK_ISA(sums_of_quarters)(of_high);
        }
        CK_ISA(turn_quarters)(n_part == 2, low, part);
        CK_ISA(turn_quarters)(n_part == 2, high, part + 4);
#pragma GCC unroll 4
        for (int i = 0; i < n_part; i++) {
            const int f = type == CK_Q6_K ? 8 * n + i : 4 * n + 2 * i;
            total = CK_ISA(fold)(1, total, part[i], w.scale[f]);
            total = CK_ISA(fold)(1, total, part[4 + i], w.scale[f + (type == CK_Q6_K ? 4 : 1)]);
        }
    }
    CK_ISA(finish_k)(type, 1, 1, 1, &total, &w, x - 64, &y);
    return y;
}

/* Adds the fifth bits of four blocks of Q5_0 whose first 16 bytes are given, to the low and the high halves of their bytes. */
CK_FN void CK_ISA(add_fifth)(ck_ints head, ck_ints *low, ck_ints *high) {
    const ck_ints first = __builtin_shufflevector(head, head, 0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12);
    const ck_ints second = __builtin_shufflevector(head, head, 1, 1, 1, 1, 5, 5, 5, 5, 9, 9, 9, 9, 13, 13, 13, 13);
    const ck_ints lane = {0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12};
    *low |= CK_ISA(spread)((first >> (16 + lane)) & 15) << 4;
    *high |= CK_ISA(spread)((second >> lane) & 15) << 4;
}

/* 256 inputs of a type with blocks of 32. */
CK_FN ckv CK_ISA(rows_32)(int type, const uint8_t *const *row, int64_t b, const int32_t *x, ckv y, int64_t next) {
    const int       size = type == CK_Q8_0 ? 34 : type == CK_Q4_0 ? 18 : 22, n_block = type == CK_Q8_0 ? 2 : 4;
    CK_ISA(factors) w;
    CK_ISA(read_factors)(type, row, b, 8, &w);
#pragma GCC unroll 1
    for (int j = 0; j < 8; j += n_block) {
        const int32_t *at = x + 8 * j;
        const ck_ints  x_low = type == CK_Q8_0 ? CK_ISA(bytes_64)(at) : CK_ISA(bytes_of_four)((const uint8_t *)at, 32);
        const ck_ints  x_high = type == CK_Q8_0 ? x_low : CK_ISA(bytes_of_four)((const uint8_t *)(at + 4), 32);
        ck_ints        start = CK_ISA(start_at)(QM_OFFSET(type), x_low), four[4], part[4];
        if (type != CK_Q8_0) {
            start += CK_ISA(start_at)(QM_OFFSET(type), x_high);
        }
#pragma GCC unroll 1
        for (int i = 0; i < 4; i++) {
            ck_ints of[4];
#pragma GCC unroll 4
            for (int r = 0; r < 4; r++) {
                const uint8_t *p = row[4 * i + r] + (8 * b + j) * size;
                __builtin_prefetch(p + next); /* 68 to 88 bytes: one line for each would leave some out */
                __builtin_prefetch(p + next + 64);
                if (type == CK_Q8_0) {
                    of[r] = CK_ISA(step)(start, CK_ISA(bytes_of_two)(p + 2, p + 36) ^ BYTES(0x80), x_low);
                    continue;
                }
                const ck_ints q = CK_ISA(bytes_of_four)(p + size - 16, size);
                ck_ints       low = q & BYTES(15), high = (q >> 4) & BYTES(15);
                if (type == CK_Q5_0) {
                    CK_ISA(add_fifth)(CK_ISA(bytes_of_four)(p, size), &low, &high);
                }
                of[r] = CK_ISA(step)(CK_ISA(step)(start, low, x_low), high, x_high);
            }
            four[i] = CK_ISA(sums_of_quarters)(of);
        }
        CK_ISA(turn_quarters)(n_block == 2, four, part);
#pragma GCC unroll 4
        for (int i = 0; i < n_block; i++) {
            const ckv d = CK_ISA(all_of)(x + QM_D + j + i) * w.d[j + i];
            y = ck_fma(d, __builtin_convertvector(part[i], ckv), y);
        }
    }
    return y;
}
#else
CK_FN ckv CK_ISA(alone_k)(int type, const uint8_t *const *row, int64_t b, const int32_t *x, ckv y,
                          CK_ISA(ahead) *ahead) {
    const int       fold = QM_FOLD(type), n_fold = QM_STEPS_OF(type) / fold, n_part = QM_INPUTS / QM_PART(type);
    CK_ISA(factors) w;
    ck_ints         fifth[8], total = {0};
    CK_ISA(read_factors)(type, row, b, 8, &w);
    CK_ISA(read_fifth)(type, row, b, fifth);
#pragma GCC unroll 1
    for (int j = 0; j < n_part; j++) {
        ck_ints q[32];
        CK_ISA(fetch_ahead)(ahead);
        CK_ISA(read_part)(type, row, b, j, fifth, q);
#pragma GCC unroll 16
        for (int f = 0; f < n_fold; f++) {
            ck_ints part = QM_CENTRE(type) ? CK_ISA(all_ints)(x[QM_START + j * n_fold + f]) : (ck_ints){0};
#pragma GCC unroll 8
            for (int s = 0; s < fold; s++) {
                part = CK_ISA(step)(part, q[f * fold + s], CK_ISA(all_ints)(x[(j * n_fold + f) * fold + s]));
            }
            total = CK_ISA(fold)(0, total, part, w.scale[j * n_fold + f]);
        }
    }
    CK_ISA(finish_k)(type, 1, 1, 1, &total, &w, x, &y);
    return y;
}

#endif

#if CK_LANES == 8
/* Q6_K on AVX2: row after row is multiplied as it lies, and the eight sums of each are added at the end. Turning six bits of
 * 256 inputs from three places costs more than a multiplication by the scale for every 32. */

/* The sums of the lanes of eight vectors, that of v[r] in lane r. */
CK_FN ck_ints CK_ISA(sums_of_lanes)(const ck_ints *v) {
    __m256i four[2];
    for (int i = 0; i < 2; i++, v += 4) {
        const __m256i first = _mm256_hadd_epi32((__m256i)v[0], (__m256i)v[1]);
        four[i] = _mm256_hadd_epi32(first, _mm256_hadd_epi32((__m256i)v[2], (__m256i)v[3]));
    }
    return (ck_ints)_mm256_permute2x128_si256(four[0], four[1], 0x20) + (ck_ints)_mm256_permute2x128_si256(four[0], four[1], 0x31);
}

CK_FN ck_ints CK_ISA(bytes_32)(const void *p) { return (ck_ints)_mm256_loadu_si256((const __m256i *)p); }

/* Inputs 128 n .. 128 n + 127 of a block at p, 32 by 32. */
CK_FN void CK_ISA(units_of_q6_k)(const uint8_t *p, int n, ck_ints *unit) {
    const ck_ints a = CK_ISA(bytes_32)(p + 64 * n), b = CK_ISA(bytes_32)(p + 64 * n + 32);
    const ck_ints high = CK_ISA(bytes_32)(p + 128 + 32 * n);
    unit[0] = (a & BYTES(15)) | ((high & BYTES(3)) << 4);
    unit[1] = (b & BYTES(15)) | ((high & BYTES(12)) << 2);
    unit[2] = ((a >> 4) & BYTES(15)) | (high & BYTES(48));
    unit[3] = ((b >> 4) & BYTES(15)) | ((high >> 2) & BYTES(48));
}

CK_FN ckv CK_ISA(rows_q6_k)(const uint8_t *const *row, int64_t b, const int32_t *x, ckv y, CK_ISA(ahead) *ahead) {
    /* 16 numbers, those of even neighbours in the low half and those of odd ones in the high half. */
    const __m256i pairs = _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15, 0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6,
                                           7, 10, 11, 14, 15);
    const __m128i even_odd = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    const __m256i sums = _mm256_permute4x64_epi64(_mm256_shuffle_epi8((__m256i)CK_ISA(bytes_32)(x + QM_SUMS), pairs), 0xd8);
    uint16_t      d[8];
    ck_ints       of[8];
#pragma GCC unroll 1
    for (int r = 0; r < 8; r++) {
        const uint8_t *p = row[r] + b * 210;
        const __m128i  bytes = _mm_loadu_si128((const __m128i *)(p + 192));
        const __m256i  scale = _mm256_cvtepi8_epi16(_mm_shuffle_epi8(bytes, even_odd));
        __m256i        sum = _mm256_slli_epi32(_mm256_madd_epi16(scale, sums), 5); /* values 0 .. 63 stand for -32 .. 31 */
        sum = _mm256_sub_epi32(_mm256_setzero_si256(), sum);
        if (r % 4 == 0) {
            CK_ISA(fetch_ahead)(ahead);
        }
        memcpy(d + r, p + 208, sizeof *d);
#pragma GCC unroll 2
        for (int n = 0; n < 2; n++) {
            ck_ints unit[4];
            CK_ISA(units_of_q6_k)(p, n, unit);
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) {
                const int     u = 4 * n + i;
                const __m256i two = _mm256_shuffle_epi8(scale, _mm256_set1_epi16((short)(0x0100 + 0x0202 * u)));
                const __m256i part = _mm256_maddubs_epi16((__m256i)unit[i], (__m256i)CK_ISA(bytes_32)(x + 8 * u));
                sum = _mm256_add_epi32(sum, _mm256_madd_epi16(part, two));
            }
        }
        of[r] = (ck_ints)sum;
    }
    const ckv factor = (ckv)_mm256_cvtph_ps(_mm_setr_epi16((short)d[0], (short)d[1], (short)d[2], (short)d[3], (short)d[4], (short)d[5],
                                                           (short)d[6], (short)d[7]));
    const ckv all = CK_ISA(all_of)(x + QM_D);
    return ck_fma(all * factor, __builtin_convertvector(CK_ISA(sums_of_lanes)(of), ckv), y);
}
#endif

CK_FN void CK_ISA(alone)(int type, int n_32, const uint8_t *const *row, int64_t b, const int32_t *x, float *sum,
                         CK_ISA(ahead) *ahead) {
    const ckv y = ck_load(sum);
#if CK_LANES == 16
    const int64_t next = ROWS * (row[1] - row[0]); /* from a row to that of the next group */
    if (QM_IS_K(type)) {
        ck_store(sum, CK_ISA(rows_k)(type, row, b, x, y, next));
    } else if (n_32 == 8) {
        ck_store(sum, CK_ISA(rows_32)(type, row, b, x, y, next));
    } else {
        ck_store(sum, CK_ISA(alone_32)(type, n_32, row, b, x, y, ahead));
    }
#elif CK_LANES == 8
    ck_store(sum, type == CK_Q6_K   ? CK_ISA(rows_q6_k)(row, b, x, y, ahead)
                  : QM_IS_K(type) ? CK_ISA(alone_k)(type, row, b, x, y, ahead)
                                  : CK_ISA(alone_32)(type, n_32, row, b, x, y, ahead));
#else
    ck_store(sum, QM_IS_K(type) ? CK_ISA(alone_k)(type, row, b, x, y, ahead)
                                : CK_ISA(alone_32)(type, n_32, row, b, x, y, ahead));
#endif
}

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
    for (int64_t b = 0; b < n_panel; b++) {
        const int64_t left = p->K - b * QM_INPUTS;
        const int     n_32 = (int)(left < QM_INPUTS ? left : QM_INPUTS) / 32;
        const column *x = p->columns + b * p->n_column;
        if (tokens->alone) {
            for (int i = 0; i < VECTORS * tokens->n; i++) {
                const int r = CK_LANES * (i % VECTORS), t = i / VECTORS;
                alone(n_32, row + r, b, x[tokens->x[t]].number, sum[t] + r, &ahead);
            }
            continue;
        }
        CK_ISA(unpack)(type, row, b, n_32, &w, &ahead);
        for (int64_t t = 0; t < tokens->n; t += QM_TILE) {
            const int n = (int)(tokens->n - t < QM_TILE ? tokens->n - t : QM_TILE);
            tiles(n, n_32, &w, x[tokens->x[t]].number, sum + t);
            if (b == n_panel - 1) {
                CK_ISA(store_rows)(p, tokens, first, t, n, sum);
            }
        }
    }
    if (tokens->alone) {
        CK_ISA(store_rows)(p, tokens, first, 0, tokens->n, sum);
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
    QM_TILES(wide_##name, type, TOKENS, QM_CENTRE(type) > 8)                                                           \
    QM_TILES(two_##name, type, 2, 0)                                                                                   \
    QM_TILES(one_##name, type, 1, QM_CENTRE(type) > 8)                                                                 \
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

/* ---- weights that are floats: nothing is rounded */

enum { CK_ISA(QM_DEEP) = 64 }; /* inputs that are summed before they join the sum of those before */
#define DEEP CK_ISA(QM_DEEP)

/* The 16 bytes from `at` of CK_LANES rows as floats, turned: 4, or 8 halves. */
CK_FN void CK_ISA(read_floats)(int type, const uint8_t *const *row, int64_t at, ckv *to) {
    ck_ints four[4];
    CK_ISA(turn_16)(row, at, four);
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        if (type == CK_F32) {
            to[j] = (ckv)four[j];
        } else if (type == CK_BF16) {
            to[2 * j] = (ckv)(four[j] << 16);
            to[2 * j + 1] = (ckv)(four[j] & (int32_t)0xffff0000);
        } else {
            to[2 * j] = CK_ISA(from_half)(four[j] & 0xffff);
            to[2 * j + 1] = CK_ISA(from_half)((four[j] >> 16) & 0xffff);
        }
    }
}

/* Inputs first .. first + n of CK_LANES rows: to[i * ROWS]. */
CK_FN void CK_ISA(unpack_floats)(int type, const uint8_t *const *row, int64_t first, int n, float *to, CK_ISA(ahead) *ahead) {
    const int size = type == CK_F32 ? 4 : 2, step = 16 / size, whole = n - n % step;
    for (int i = 0; i < whole; i += step) {
        ckv w[8];
        CK_ISA(fetch_ahead)(ahead);
        CK_ISA(read_floats)(type, row, (first + i) * size, w);
#pragma GCC unroll 8
        for (int j = 0; j < step; j++) {
            ck_store(to + (i + j) * ROWS, w[j]);
        }
    }
    for (int i = whole; i < n; i++) {
        ck_ints bits;
        int32_t held[CK_LANES];
        for (int r = 0; r < CK_LANES; r++) {
            held[r] = 0;
            memcpy(held + r, row[r] + (first + i) * size, (size_t)size);
        }
        memcpy(&bits, held, sizeof bits);
        ck_store(to + i * ROWS, type == CK_F32 ? (ckv)bits : type == CK_BF16 ? (ckv)(bits << 16) : CK_ISA(from_half)(bits));
    }
}

CK_FN void CK_ISA(tile_of_floats)(int n, int n_k, const float *w, const float *const *x, float (*sum)[ROWS]) {
    ckv part[TOKENS][VECTORS];
#pragma GCC unroll 8
    for (int t = 0; t < n; t++) {
        part[t][0] = part[t][1] = ck_all(0.0f);
    }
    for (int k = 0; k < n_k; k++) {
        const ckv a = ck_load(w + k * ROWS), b = ck_load(w + k * ROWS + CK_LANES);
#pragma GCC unroll 8
        for (int t = 0; t < n; t++) {
            const ckv v = ck_all(x[t][k]);
            part[t][0] = ck_fma(a, v, part[t][0]);
            part[t][1] = ck_fma(b, v, part[t][1]);
        }
    }
#pragma GCC unroll 8
    for (int t = 0; t < n; t++) {
        ck_store(sum[t], ck_load(sum[t]) + part[t][0]);
        ck_store(sum[t] + CK_LANES, ck_load(sum[t] + CK_LANES) + part[t][1]);
    }
}

static __attribute__((noinline)) void CK_ISA(whole_of_floats)(int n_k, const float *w, const float *const *x,
                                                              float (*sum)[ROWS]) {
    CK_ISA(tile_of_floats)(TOKENS, n_k, w, x, sum);
}

static __attribute__((noinline)) void CK_ISA(rest_of_floats)(int n, int n_k, const float *w, const float *const *x,
                                                             float (*sum)[ROWS]) {
    for (; TOKENS > 2 && n >= 2; n -= 2, x += 2, sum += 2) {
        CK_ISA(tile_of_floats)(2, n_k, w, x, sum);
    }
    if (n > 0) {
        CK_ISA(tile_of_floats)(1, n_k, w, x, sum);
    }
}

/* One token, weights that are whole 16 bytes: multiplied where they are turned, in the same order. */
CK_FN void CK_ISA(alone_of_floats)(int type, const uint8_t *const *row, int64_t n_k, const float *x, float *sum,
                                   CK_ISA(ahead) *ahead) {
    const int size = type == CK_F32 ? 4 : 2, step = 16 / size;
    ckv       y[VECTORS] = {{0}};
    for (int64_t k = 0; k < n_k; k += DEEP) {
        ckv part[VECTORS] = {{0}};
        for (int64_t i = k; i < k + DEEP && i < n_k; i += step) {
#pragma GCC unroll 2
            for (int r = 0; r < VECTORS; r++) {
                ckv w[8];
                CK_ISA(fetch_ahead)(ahead);
                CK_ISA(read_floats)(type, row + r * CK_LANES, i * size, w);
#pragma GCC unroll 8
                for (int j = 0; j < step; j++) {
                    part[r] = ck_fma(w[j], ck_all(x[i + j]), part[r]);
                }
            }
        }
        for (int r = 0; r < VECTORS; r++) {
            y[r] += part[r];
        }
    }
    for (int r = 0; r < VECTORS; r++) {
        ck_store(sum + r * CK_LANES, y[r]);
    }
}

CK_FN void CK_ISA(multiply_floats)(int type, const product *p, const batch *tokens, int64_t first) {
    float          sum[QM_BATCH][ROWS], w[DEEP * ROWS];
    const uint8_t *row[ROWS];
    CK_ISA(point_at_rows)(p, first, row);
    memset(sum, 0, (size_t)tokens->n * sizeof *sum);
    CK_ISA(ahead) ahead = CK_ISA(start_ahead)(p, first, VECTORS * ((p->row_bytes + 15) / 16));
    if (tokens->n == 1 && p->row_bytes % 16 == 0) {
        CK_ISA(alone_of_floats)(type, row, p->K, tokens->from[0], sum[0], &ahead);
        CK_ISA(store_rows)(p, tokens, first, 0, 1, sum);
        return;
    }
    for (int64_t k = 0; k < p->K; k += DEEP) {
        const int n_k = (int)(p->K - k < DEEP ? p->K - k : DEEP);
        CK_ISA(unpack_floats)(type, row, k, n_k, w, &ahead);
        CK_ISA(unpack_floats)(type, row + CK_LANES, k, n_k, w + CK_LANES, &ahead);
        const float *x[TOKENS];
        for (int64_t t = 0; t < tokens->n; t += TOKENS) {
            const int64_t n = tokens->n - t < TOKENS ? tokens->n - t : TOKENS;
            for (int i = 0; i < n; i++) {
                x[i] = tokens->from[t + i] + k;
            }
            if (n == TOKENS) {
                CK_ISA(whole_of_floats)(n_k, w, x, sum + t);
            } else {
                CK_ISA(rest_of_floats)((int)n, n_k, w, x, sum + t);
            }
        }
    }
    CK_ISA(store_rows)(p, tokens, first, 0, tokens->n, sum);
}

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
#undef DEEP
#undef BYTES
#undef QM_PART
#undef QM_STEPS_OF
#undef QM_KEEP
#undef QM_FOLD
#undef QM_HALVES
#undef QM_CENTRE
#undef QM_OFFSET
