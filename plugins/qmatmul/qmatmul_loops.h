/* The loops of conifer.qmatmul/1, for one instruction set. Included by qmatmul.c through conifer_simd.h.
 *
 * A *group* is QM_ROWS rows of the weight, as lanes of QM_VECTORS vectors. QM_INPUTS inputs of a group after the other are unpacked from
 * GGUF's own blocks into a *panel* in the first cache, where bytes of the same inputs stand side by side, and multiplied with
 * a *batch* of tokens. The sum over blocks runs in order, for each row by itself: its bits depend on nothing else. */
#include "qmatmul_vector.h"

enum { CK_ISA(QM_VECTORS) = 2, CK_ISA(QM_ROWS) = 2 * CK_LANES };
/* Tokens whose sums stay in registers. Where code is checked and not timed, few: it compiles in a third of the time. */
#if defined(__SANITIZE_ADDRESS__) || defined(CK_EMULATE_AVX512)
enum { CK_ISA(QM_TILE) = 2 };
#else
enum { CK_ISA(QM_TILE) = CK_LANES == 16 ? 6 : 4 };
#endif
#define VECTORS CK_ISA(QM_VECTORS)
#define ROWS CK_ISA(QM_ROWS)
#define TILE CK_ISA(QM_TILE)

typedef struct {
    ck_ints byte[CK_LANES == 8 ? 128 : 64][VECTORS];
    ck_ints scale[32][VECTORS]; /* one for each fold */
    ckv     low[8][VECTORS];    /* Q4_K, Q5_K: factors of the sums of 32 activations */
    ckv     d[8][VECTORS];      /* of each 32 inputs; K types: the first */
#if CK_LANES == 8
    ck_ints pairs[8][VECTORS]; /* Q6_K: pairs of 16-bit factors of the sums of 16 activations */
#endif
} CK_ISA(panel);

/* ---- activations */

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

CK_FN void CK_ISA(round_k)(int type, const float *x, rounded *to) {
    const ckv factor = CK_ISA(block_scale)(x, QM_INPUTS, &to->d);
    int32_t   sum[16], size[16];
    ck_ints   sums[16], sizes[16];
    for (int i = 0; i < 16; i++) {
        sums[i] = sizes[i] = (ck_ints){0};
        CK_ISA(round_16)(x + 16 * i, factor, to->q + 16 * i, &sums[i], &sizes[i]);
    }
    for (int i = 0; i < 16; i += CK_LANES) {
        const ck_ints a = CK_ISA(sums_of)(sums + i), b = CK_ISA(sums_of)(sizes + i);
        memcpy(sum + i, &a, sizeof a);
        memcpy(size + i, &b, sizeof b);
    }
    const int32_t centre = QM_CENTRE(type);
    to->wide = 0;
    for (int i = 0; i < 8; i++) {
        const int32_t of_32 = sum[2 * i] + sum[2 * i + 1];
        to->factor[i] = to->d * (float)of_32;
        if (type != CK_Q6_K) {
            to->start[i] = -centre * of_32;
            to->wide |= centre * (size[2 * i] + size[2 * i + 1]) > INT16_MAX;
        }
    }
    for (int i = 0; type == CK_Q6_K && i < 16; i++) {
        if (centre) {
            to->start[i] = -centre * sum[i];
            to->wide |= centre * size[i] > INT16_MAX;
        } else {
            to->sum[i] = (int16_t)sum[i];
        }
    }
}

CK_FN void CK_ISA(round_32)(int type, const float *x, int i, rounded *to) {
    const ckv factor = CK_ISA(block_scale)(x, 32, &to->factor[i]);
    ck_ints   sum = {0}, size = {0};
    CK_ISA(round_16)(x, factor, to->q + 32 * i, &sum, &size);
    CK_ISA(round_16)(x + 16, factor, to->q + 32 * i + 16, &sum, &size);
    to->start[i] = QM_OFFSET(type) ? -QM_OFFSET(type) * CK_ISA(sum_of)(sum) : 0;
}

static void CK_ISA(round_row)(const product *p, const float *x, int64_t t, rounded *to) {
    to += t;
    for (int64_t k = 0; k < p->K; k += QM_INPUTS, to += p->n_x) {
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

/* ---- weights: QM_INPUTS inputs of CK_LANES rows become vector r of a panel */

#define BYTES(x) ((int32_t)(0x01010101u * (x)))

CK_FN ckv CK_ISA(halves_at)(const uint8_t *const *row, int64_t at) {
    int32_t held[CK_LANES];
    for (int i = 0; i < CK_LANES; i++) {
        uint16_t h;
        memcpy(&h, row[i] + at, sizeof h);
        held[i] = h;
    }
    ck_ints bits;
    memcpy(&bits, held, sizeof bits);
    return CK_ISA(from_half)(bits);
}

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
CK_FN void CK_ISA(unpack_k_scales)(int type, const uint8_t *const *row, int64_t at, int r, CK_ISA(panel) *to) {
    ck_ints head[4], s[2], m[2];
    CK_ISA(turn_16)(row, at, head);
    const ckv d = CK_ISA(from_half)(head[0] & 0xffff), d_low = CK_ISA(from_half)((head[0] >> 16) & 0xffff);
    s[0] = head[1] & BYTES(63);
    m[0] = head[2] & BYTES(63);
    s[1] = (head[3] & BYTES(15)) | ((head[1] >> 2) & BYTES(48));
    m[1] = ((head[3] >> 4) & BYTES(15)) | ((head[2] >> 2) & BYTES(48));
    to->d[0][r] = d;
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++) {
        const ck_ints scale = (s[j / 4] >> (8 * (j % 4))) & 0xff, least = (m[j / 4] >> (8 * (j % 4))) & 0xff;
        for (int i = 0; i < 8 / QM_FOLD(type); i++) {
            to->scale[j * (8 / QM_FOLD(type)) + i][r] = CK_ISA(scale)(scale);
        }
        const ckv low = d_low * __builtin_convertvector(least, ckv);
        to->low[j][r] = (float)QM_CENTRE(type) * d * __builtin_convertvector(scale, ckv) - low;
    }
}

CK_FN void CK_ISA(unpack_q4_k)(const uint8_t *const *row, int64_t b, int r, CK_ISA(panel) *to, CK_ISA(ahead) *ahead) {
    CK_ISA(unpack_k_scales)(CK_Q4_K, row, b * 144, r, to);
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        ck_ints q[8];
        CK_ISA(fetch_ahead)(ahead);
        CK_ISA(turn_32)(row, b * 144 + 16 + 32 * j, q);
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
            to->byte[16 * j + i][r] = q[i] & BYTES(15);
            to->byte[16 * j + 8 + i][r] = (q[i] >> 4) & BYTES(15);
        }
    }
}

CK_FN void CK_ISA(unpack_q5_k)(const uint8_t *const *row, int64_t b, int r, CK_ISA(panel) *to, CK_ISA(ahead) *ahead) {
    ck_ints fifth[8];
    CK_ISA(unpack_k_scales)(CK_Q5_K, row, b * 176, r, to);
    CK_ISA(turn_32)(row, b * 176 + 16, fifth);
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        ck_ints q[8];
        CK_ISA(fetch_ahead)(ahead);
        CK_ISA(turn_32)(row, b * 176 + 48 + 32 * j, q);
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
            to->byte[16 * j + i][r] = (q[i] & BYTES(15)) | (((fifth[i] >> (2 * j)) & BYTES(1)) << 4);
            to->byte[16 * j + 8 + i][r] = ((q[i] >> 4) & BYTES(15)) | (((fifth[i] >> (2 * j + 1)) & BYTES(1)) << 4);
        }
    }
}

/* Values 0 .. 63 stand for -32 .. 31: 32 times the sums of the activations are taken away again. */
CK_FN void CK_ISA(unpack_q6_k)(const uint8_t *const *row, int64_t b, int r, CK_ISA(panel) *to, CK_ISA(ahead) *ahead) {
    const int64_t at = b * 210;
    ck_ints       s[4], scale[16];
    CK_ISA(turn_16)(row, at + 192, s);
#pragma GCC unroll 16
    for (int j = 0; j < 16; j++) {
        scale[j] = (s[j / 4] << (24 - 8 * (j % 4))) >> 24;
        for (int i = 0; i < 4 / QM_FOLD(CK_Q6_K); i++) {
            to->scale[j * (4 / QM_FOLD(CK_Q6_K)) + i][r] = CK_ISA(scale)(scale[j]);
        }
    }
#if CK_LANES == 8
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        to->pairs[i][r] = ((-32 * scale[2 * i]) & 0xffff) | ((-32 * scale[2 * i + 1]) << 16);
    }
#endif
#pragma GCC unroll 2
    for (int n = 0; n < 2; n++) {
        ck_ints p[8], q[8], high[8];
        CK_ISA(fetch_ahead)(ahead);
        CK_ISA(turn_32)(row, at + 64 * n, p);
        CK_ISA(turn_32)(row, at + 64 * n + 32, q);
        CK_ISA(fetch_ahead)(ahead);
        CK_ISA(turn_32)(row, at + 128 + 32 * n, high);
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
            to->byte[32 * n + i][r] = (p[i] & BYTES(15)) | ((high[i] & BYTES(3)) << 4);
            to->byte[32 * n + 8 + i][r] = (q[i] & BYTES(15)) | ((high[i] & BYTES(12)) << 2);
            to->byte[32 * n + 16 + i][r] = ((p[i] >> 4) & BYTES(15)) | (high[i] & BYTES(48));
            to->byte[32 * n + 24 + i][r] = ((q[i] >> 4) & BYTES(15)) | ((high[i] >> 2) & BYTES(48));
        }
    }
    to->d[0][r] = CK_ISA(halves_at)(row, at + 208);
}

/* The 32 inputs at block b, which are those from 32 j of the panel. */
CK_FN void CK_ISA(unpack_q8_0)(const uint8_t *const *row, int64_t b, int j, int r, CK_ISA(panel) *to) {
    ck_ints q[8];
    to->d[j][r] = CK_ISA(halves_at)(row, b * 34);
    CK_ISA(turn_32)(row, b * 34 + 2, q);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        if (QM_OFFSET(CK_Q8_0)) {
            q[i] ^= BYTES(0x80);
        }
        if (QM_HALVES(CK_Q8_0) == 2) {
            to->byte[16 * j + i][r] = q[i] & BYTES(15);
            to->byte[16 * j + 8 + i][r] = (q[i] >> 4) & BYTES(15);
        } else {
            to->byte[8 * j + i][r] = q[i];
        }
    }
}

CK_FN void CK_ISA(unpack_q4_0)(const uint8_t *const *row, int64_t b, int j, int r, CK_ISA(panel) *to) {
    ck_ints q[4];
    to->d[j][r] = CK_ISA(halves_at)(row, b * 18);
    CK_ISA(turn_16)(row, b * 18 + 2, q);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        to->byte[8 * j + i][r] = q[i] & BYTES(15);
        to->byte[8 * j + 4 + i][r] = (q[i] >> 4) & BYTES(15);
    }
}

CK_FN void CK_ISA(unpack_q5_0)(const uint8_t *const *row, int64_t b, int j, int r, CK_ISA(panel) *to) {
    ck_ints q[4], fifth;
    int32_t held[CK_LANES];
    to->d[j][r] = CK_ISA(halves_at)(row, b * 22);
    for (int i = 0; i < CK_LANES; i++) {
        memcpy(held + i, row[i] + b * 22 + 2, sizeof *held);
    }
    memcpy(&fifth, held, sizeof fifth);
    CK_ISA(turn_16)(row, b * 22 + 6, q);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        /* Bit j of the four goes to byte j: 2^7 + 2^14 + 2^21 + 1 puts it at 8 j, and elsewhere beside a byte's lowest bit. */
        const ck_ints four = (fifth >> (4 * i)) & 15, bit = (four * 0x204081) & BYTES(1);
        const ck_ints low = i < 4 ? q[i] & BYTES(15) : (q[i - 4] >> 4) & BYTES(15);
        to->byte[8 * j + i][r] = low | (bit << 4);
    }
}

/* n blocks of 32, or one of 256. */
CK_FN void CK_ISA(unpack)(int type, const uint8_t *const *row, int64_t b, int n, CK_ISA(panel) *to, CK_ISA(ahead) *ahead) {
    for (int r = 0; r < VECTORS; r++, row += CK_LANES) {
        if (type == CK_Q4_K) {
            CK_ISA(unpack_q4_k)(row, b, r, to, ahead);
        } else if (type == CK_Q5_K) {
            CK_ISA(unpack_q5_k)(row, b, r, to, ahead);
        } else if (type == CK_Q6_K) {
            CK_ISA(unpack_q6_k)(row, b, r, to, ahead);
        } else {
            for (int j = 0; j < n; j++) {
                CK_ISA(fetch_ahead)(ahead);
                switch (type) {
                case CK_Q8_0: CK_ISA(unpack_q8_0)(row, 8 * b + j, j, r, to); break;
                case CK_Q4_0: CK_ISA(unpack_q4_0)(row, 8 * b + j, j, r, to); break;
                default: CK_ISA(unpack_q5_0)(row, 8 * b + j, j, r, to); break;
                }
            }
        }
    }
}

/* ---- products. n <= TILE tokens, known to the compiler: sum[t] += weight . x[t]. */

/* part[t] += the products of `fold` steps; activations from input `at`. */
CK_FN void CK_ISA(steps)(int n, int fold, const ck_ints (*byte)[VECTORS], const rounded *const *x, int at,
                         ck_ints (*part)[VECTORS]) {
#pragma GCC unroll 8
    for (int s = 0; s < fold; s++) {
        const ck_ints a = byte[s][0], b = byte[s][1];
#pragma GCC unroll 8
        for (int t = 0; t < n; t++) {
            const ck_ints v = CK_ISA(dword)(x[t]->q + at + 4 * s);
            part[t][0] = CK_ISA(step)(part[t][0], a, v);
            part[t][1] = CK_ISA(step)(part[t][1], b, v);
        }
    }
}

CK_FN void CK_ISA(tile_k)(int type, int n, int wide, const CK_ISA(panel) *w, const rounded *const *x, float (*sum)[ROWS]) {
    ck_ints   total[TILE][VECTORS];
    const int fold = QM_FOLD(type);
#pragma GCC unroll 8
    for (int t = 0; t < n; t++) {
        total[t][0] = total[t][1] = (ck_ints){0};
    }
    for (int f = 0; f < 64 / fold; f++) {
        ck_ints part[TILE][VECTORS];
#pragma GCC unroll 8
        for (int t = 0; t < n; t++) {
            part[t][0] = part[t][1] = QM_CENTRE(type) ? CK_ISA(all_ints)(x[t]->start[f]) : (ck_ints){0};
        }
        CK_ISA(steps)(n, fold, w->byte + f * fold, x, 4 * f * fold, part);
#pragma GCC unroll 8
        for (int t = 0; t < n; t++) {
            total[t][0] = CK_ISA(fold)(wide, total[t][0], part[t][0], w->scale[f][0]);
            total[t][1] = CK_ISA(fold)(wide, total[t][1], part[t][1], w->scale[f][1]);
        }
    }
#pragma GCC unroll 8
    for (int t = 0; t < n; t++) {
#pragma GCC unroll 2
        for (int r = 0; r < VECTORS; r++) {
            ckv y = ck_load(sum[t] + r * CK_LANES);
#if CK_LANES == 8
            for (int i = 0; type == CK_Q6_K && i < 8; i++) {
                total[t][r] = CK_ISA(add_pairs)(total[t][r], w->pairs[i][r], CK_ISA(dword)(x[t]->sum + 2 * i));
            }
#endif
            y = ck_fma(ck_all(x[t]->d) * w->d[0][r], __builtin_convertvector(total[t][r], ckv), y);
#pragma GCC unroll 8
            for (int j = 0; type != CK_Q6_K && j < 8; j++) {
                y = ck_fma(ck_all(x[t]->factor[j]), w->low[j][r], y);
            }
            ck_store(sum[t] + r * CK_LANES, y);
        }
    }
}

/* n_32 blocks of 32 inputs, each with a scale of its own on both sides. */
CK_FN void CK_ISA(tile_32)(int type, int n, int n_32, const CK_ISA(panel) *w, const rounded *const *x, float (*sum)[ROWS]) {
    (void)type;
    ckv y[TILE][VECTORS];
#pragma GCC unroll 8
    for (int t = 0; t < n; t++) {
        y[t][0] = ck_load(sum[t]);
        y[t][1] = ck_load(sum[t] + CK_LANES);
    }
    for (int j = 0; j < n_32; j++) {
        ck_ints part[TILE][VECTORS];
#if CK_LANES == 8
        ck_ints         total[TILE][VECTORS];
        const int       fold = QM_FOLD(type), n_fold = 8 * QM_HALVES(type) / fold;
        const ck_ints (*byte)[VECTORS] = w->byte + 8 * QM_HALVES(type) * j;
#pragma GCC unroll 8
        for (int t = 0; t < n; t++) {
            total[t][0] = total[t][1] = CK_ISA(all_ints)(x[t]->start[j]);
        }
#pragma GCC unroll 2
        for (int f = 0; f < n_fold; f++) {
            const ck_ints scale = CK_ISA(scale)(CK_ISA(all_ints)(type == CK_Q8_0 && f == 1 ? 16 : 1));
#pragma GCC unroll 8
            for (int t = 0; t < n; t++) {
                part[t][0] = part[t][1] = (ck_ints){0};
            }
            CK_ISA(steps)(n, fold, byte + f * fold, x, 32 * j + 4 * (f * fold % 8), part);
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
            part[t][0] = part[t][1] = CK_ISA(all_ints)(x[t]->start[j]);
        }
        CK_ISA(steps)(n, 8, w->byte + 8 * j, x, 32 * j, part);
#endif
#pragma GCC unroll 8
        for (int t = 0; t < n; t++) {
            const ckv d = ck_all(x[t]->factor[j]);
            y[t][0] = ck_fma(d * w->d[j][0], __builtin_convertvector(part[t][0], ckv), y[t][0]);
            y[t][1] = ck_fma(d * w->d[j][1], __builtin_convertvector(part[t][1], ckv), y[t][1]);
        }
    }
#pragma GCC unroll 8
    for (int t = 0; t < n; t++) {
        ck_store(sum[t], y[t][0]);
        ck_store(sum[t] + CK_LANES, y[t][1]);
    }
}

CK_FN void CK_ISA(tile)(int type, int n, int n_32, const CK_ISA(panel) *w, const rounded *const *x, float (*sum)[ROWS]) {
    int wide = 0;
    for (int t = 0; QM_CENTRE(type) > 8 && t < n; t++) {
        wide |= x[t]->wide;
    }
    if (!QM_IS_K(type)) {
        CK_ISA(tile_32)(type, n, n_32, w, x, sum);
    } else if (CK_LANES == 16 && wide) {
        for (int t = 0; t < n; t++) {
            CK_ISA(tile_k)(type, 1, 1, w, x + t, sum + t);
        }
    } else {
        CK_ISA(tile_k)(type, n, 0, w, x, sum);
    }
}

/* Row pointers of a group; behind the last row of the matrix the last one again. */
CK_FN void CK_ISA(point_at_rows)(const product *p, int64_t first, const uint8_t **row) {
    for (int i = 0; i < ROWS; i++) {
        row[i] = p->weight + (first + i < p->N ? first + i : p->N - 1) * p->row_bytes;
    }
}

CK_FN void CK_ISA(store_group)(const product *p, const batch *tokens, int64_t first, float (*sum)[ROWS]) {
    if (p->N - first >= ROWS) {
        for (int64_t t = 0; t < tokens->n; t++) {
            ck_store(tokens->y[t] + first, ck_load(sum[t]));
            ck_store(tokens->y[t] + first + CK_LANES, ck_load(sum[t] + CK_LANES));
        }
        return;
    }
    for (int64_t t = 0; t < tokens->n; t++) {
        memcpy(tokens->y[t] + first, sum[t], (size_t)(p->N - first) * sizeof(float));
    }
}

CK_FN CK_ISA(ahead) CK_ISA(start_ahead)(const product *p, int64_t first, int64_t n_call) {
    const uint8_t *end = p->weight + p->N * p->row_bytes, *next = p->weight + (first + ROWS) * p->row_bytes;
    return (CK_ISA(ahead)){next, end, ROWS * p->row_bytes / n_call, 63};
}

typedef void CK_ISA(tile_function)(int n, int n_32, const CK_ISA(panel) *w, const rounded *const *x, float (*sum)[ROWS]);

CK_FN void CK_ISA(multiply_group)(int type, CK_ISA(tile_function) *whole, CK_ISA(tile_function) *rest, const product *p,
                                  const batch *tokens, int64_t first) {
    float          sum[QM_BATCH][ROWS];
    CK_ISA(panel)  w;
    const uint8_t *row[ROWS];
    const int64_t  n_panel = (p->K + QM_INPUTS - 1) / QM_INPUTS;
    CK_ISA(point_at_rows)(p, first, row);
    memset(sum, 0, (size_t)tokens->n * sizeof *sum);
    CK_ISA(ahead) ahead = CK_ISA(start_ahead)(p, first, VECTORS * (QM_IS_K(type) ? 4 * n_panel : p->K / 32));
    for (int64_t b = 0; b < n_panel; b++) {
        const int64_t left = p->K - b * QM_INPUTS;
        const int     n_32 = (int)(left < QM_INPUTS ? left : QM_INPUTS) / 32;
        CK_ISA(unpack)(type, row, b, n_32, &w, &ahead);
        const rounded *x[TILE];
        for (int64_t t = 0; t < tokens->n; t += TILE) {
            const int n = (int)(tokens->n - t < TILE ? tokens->n - t : TILE);
            for (int i = 0; i < n; i++) {
                x[i] = p->rounded + b * p->n_x + tokens->x[t + i];
            }
            (n == TILE ? whole : rest)(n, n_32, &w, x, sum + t);
        }
    }
    CK_ISA(store_group)(p, tokens, first, sum);
}

/* Functions of their own, each with all registers: inlined into one, the compiler runs out of them. */
#define QM_TYPE(name, type)                                                                                            \
    static __attribute__((noinline)) void CK_ISA(whole_##name)(int n, int n_32, const CK_ISA(panel) *w,               \
                                                               const rounded *const *x, float (*sum)[ROWS]) {         \
        (void)n;                                                                                                       \
        CK_ISA(tile)(type, TILE, n_32, w, x, sum);                                                                     \
    }                                                                                                                  \
    static __attribute__((noinline)) void CK_ISA(rest_##name)(int n, int n_32, const CK_ISA(panel) *w,                \
                                                              const rounded *const *x, float (*sum)[ROWS]) {          \
        for (; TILE > 2 && n >= 2; n -= 2, x += 2, sum += 2) {                                                         \
            CK_ISA(tile)(type, 2, n_32, w, x, sum);                                                                    \
        }                                                                                                              \
        if (n > 0) {                                                                                                   \
            CK_ISA(tile)(type, 1, n_32, w, x, sum);                                                                    \
        }                                                                                                              \
    }                                                                                                                  \
    static __attribute__((noinline)) void CK_ISA(group_##name)(const product *p, const batch *tokens, int64_t first) {  \
        CK_ISA(multiply_group)(type, CK_ISA(whole_##name), CK_ISA(rest_##name), p, tokens, first);                     \
    }
QM_TYPE(q4_k, CK_Q4_K)
QM_TYPE(q5_k, CK_Q5_K)
QM_TYPE(q6_k, CK_Q6_K)
QM_TYPE(q8_0, CK_Q8_0)
QM_TYPE(q4_0, CK_Q4_0)
QM_TYPE(q5_0, CK_Q5_0)
#undef QM_TYPE

/* ---- weights that are floats: nothing is rounded */

enum { CK_ISA(QM_DEEP) = 64 }; /* inputs that are summed before they join the sum of those before */
#define DEEP CK_ISA(QM_DEEP)

/* Inputs first .. first + n of CK_LANES rows as floats, turned: to[i * ROWS]. */
CK_FN void CK_ISA(unpack_floats)(int type, const uint8_t *const *row, int64_t first, int n, float *to, CK_ISA(ahead) *ahead) {
    const int size = type == CK_F32 ? 4 : 2, whole = n - n % (16 / size);
    for (int i = 0; i < whole; i += 16 / size) {
        ck_ints four[4];
        CK_ISA(fetch_ahead)(ahead);
        CK_ISA(turn_16)(row, (first + i) * size, four);
        for (int j = 0; j < 4; j++) {
            if (type == CK_F32) {
                ck_store(to + (i + j) * ROWS, (ckv)four[j]);
            } else if (type == CK_BF16) {
                ck_store(to + (i + 2 * j) * ROWS, (ckv)(four[j] << 16));
                ck_store(to + (i + 2 * j + 1) * ROWS, (ckv)(four[j] & (int32_t)0xffff0000));
            } else {
                ck_store(to + (i + 2 * j) * ROWS, CK_ISA(from_half)(four[j] & 0xffff));
                ck_store(to + (i + 2 * j + 1) * ROWS, CK_ISA(from_half)((four[j] >> 16) & 0xffff));
            }
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
    ckv part[TILE][VECTORS];
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
    CK_ISA(tile_of_floats)(TILE, n_k, w, x, sum);
}

static __attribute__((noinline)) void CK_ISA(rest_of_floats)(int n, int n_k, const float *w, const float *const *x,
                                                             float (*sum)[ROWS]) {
    for (; TILE > 2 && n >= 2; n -= 2, x += 2, sum += 2) {
        CK_ISA(tile_of_floats)(2, n_k, w, x, sum);
    }
    if (n > 0) {
        CK_ISA(tile_of_floats)(1, n_k, w, x, sum);
    }
}

CK_FN void CK_ISA(multiply_floats)(int type, const product *p, const batch *tokens, int64_t first) {
    float          sum[QM_BATCH][ROWS], w[DEEP * ROWS];
    const uint8_t *row[ROWS];
    CK_ISA(point_at_rows)(p, first, row);
    memset(sum, 0, (size_t)tokens->n * sizeof *sum);
    CK_ISA(ahead) ahead = CK_ISA(start_ahead)(p, first, VECTORS * ((p->row_bytes + 15) / 16));
    for (int64_t k = 0; k < p->K; k += DEEP) {
        const int n_k = (int)(p->K - k < DEEP ? p->K - k : DEEP);
        CK_ISA(unpack_floats)(type, row, k, n_k, w, &ahead);
        CK_ISA(unpack_floats)(type, row + CK_LANES, k, n_k, w + CK_LANES, &ahead);
        const float *x[TILE];
        for (int64_t t = 0; t < tokens->n; t += TILE) {
            const int64_t n = tokens->n - t < TILE ? tokens->n - t : TILE;
            for (int i = 0; i < n; i++) {
                x[i] = tokens->from[t + i] + k;
            }
            if (n == TILE) {
                CK_ISA(whole_of_floats)(n_k, w, x, sum + t);
            } else {
                CK_ISA(rest_of_floats)((int)n, n_k, w, x, sum + t);
            }
        }
    }
    CK_ISA(store_group)(p, tokens, first, sum);
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
#undef TILE
#undef DEEP
#undef BYTES
#undef QM_KEEP
#undef QM_FOLD
#undef QM_HALVES
#undef QM_CENTRE
#undef QM_OFFSET
