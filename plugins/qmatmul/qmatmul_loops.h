/* The loops of conifer.qmatmul/1, for one instruction set. Included by qmatmul.c through conifer_simd.h.
 *
 * A *group* is QM_ROWS rows of the weight, as lanes of QM_VECTORS vectors. One block of a group after the other is unpacked from
 * GGUF's own blocks into a *panel* in the first cache, where bytes of the same inputs stand side by side, and multiplied with
 * a *batch* of tokens. The sum over blocks runs in order, for each row by itself: its bits depend on nothing else. */
#include "qmatmul_vector.h"

enum { CK_ISA(QM_VECTORS) = 2, CK_ISA(QM_ROWS) = 2 * CK_LANES };
#define VECTORS CK_ISA(QM_VECTORS)
#define ROWS CK_ISA(QM_ROWS)

typedef struct {
    ck_ints byte[64][VECTORS];
    ck_ints scale[32][VECTORS]; /* one for each fold */
    ck_ints low[8][VECTORS];    /* pairs of 16-bit factors for the sums of 32 (Q4_K, Q5_K) or 16 (Q6_K) activations */
    ckv     d[VECTORS], d_low[VECTORS];
} CK_ISA(panel);

/* ---- activations */

/* Round n_block blocks of one row to 8 bits: x / d with d = max |x| / 127. A block that is not finite gets d = NaN. */
CK_FN ckv CK_ISA(block_scale)(const float *x, int n, float *d) {
    ckv most = ck_all(0.0f), odd = ck_all(0.0f);
    for (int i = 0; i < n; i += CK_LANES) {
        const ckv v = ck_load(x + i);
        most = ck_max(most, (ckv)((ck_ints)v & 0x7fffffff));
        odd += v - v; /* 0, or NaN for ever */
    }
    float largest = 0.0f;
    for (int i = 0; i < CK_LANES; i++) {
        largest = most[i] > largest ? most[i] : largest;
    }
    const float wrong = ck_sum(odd);
    *d = wrong == 0.0f ? largest / 127.0f : NAN;
    return ck_all(wrong == 0.0f && largest > 0.0f ? 127.0f / largest : 0.0f);
}

CK_FN int32_t CK_ISA(round_16)(const float *x, ckv factor, int8_t *to) {
    int32_t held[16], sum = 0;
    for (int i = 0; i < 16; i += CK_LANES) {
        ckv v = factor * ck_load(x + i);
        v = (ckv)((ck_ints)v & (v == v)); /* the sum of such a block is NaN by its d */
        const ck_ints q = __builtin_convertvector(CK_ISA(ck_nearest)(v), ck_ints);
        memcpy(held + i, &q, sizeof q);
    }
    for (int i = 0; i < 16; i++) {
        to[i] = (int8_t)held[i];
        sum += held[i];
    }
    return sum;
}

static void CK_ISA(round_row)(const product *p, const float *x, int64_t t, char *rounded) {
    for (int64_t b = 0; b < p->n_block; b++) {
        if (QM_IS_K(p->type)) {
            x256 *to = (x256 *)rounded + b * p->n_x + t;
            const ckv factor = CK_ISA(block_scale)(x + 256 * b, 256, &to->d);
            for (int i = 0; i < 16; i++) {
                const int32_t sum = CK_ISA(round_16)(x + 256 * b + 16 * i, factor, to->q + 16 * i);
                to->sum[i] = (int16_t)sum;
            }
            for (int i = 0; i < 8; i++) {
                to->sum_32[i] = (int16_t)(to->sum[2 * i] + to->sum[2 * i + 1]);
            }
        } else {
            x32 *to = (x32 *)rounded + b * p->n_x + t;
            const ckv factor = CK_ISA(block_scale)(x + 32 * b, 32, &to->d);
            to->sum = CK_ISA(round_16)(x + 32 * b, factor, to->q);
            to->sum += CK_ISA(round_16)(x + 32 * b + 16, factor, to->q + 16);
        }
    }
}

/* ---- weights: one block of CK_LANES rows becomes vector r of a panel */

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
CK_FN void CK_ISA(unpack_k_scales)(const uint8_t *const *row, int64_t at, int fold, int r, CK_ISA(panel) *to) {
    ck_ints head[4], s[2], m[2];
    CK_ISA(turn_16)(row, at, head);
    to->d[r] = CK_ISA(from_half)(head[0] & 0xffff);
    to->d_low[r] = -CK_ISA(from_half)((head[0] >> 16) & 0xffff);
    s[0] = head[1] & BYTES(63);
    m[0] = head[2] & BYTES(63);
    s[1] = (head[3] & BYTES(15)) | ((head[1] >> 2) & BYTES(48));
    m[1] = ((head[3] >> 4) & BYTES(15)) | ((head[2] >> 2) & BYTES(48));
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++) {
        const ck_ints scale = CK_ISA(scale)((s[j / 4] >> (8 * (j % 4))) & 0xff);
        for (int i = 0; i < 8 / fold; i++) {
            to->scale[j * (8 / fold) + i][r] = scale;
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        const ck_ints two = m[i / 2] >> (16 * (i % 2));
        to->low[i][r] = (two & 0xff) | ((two & 0xff00) << 8);
    }
}

CK_FN void CK_ISA(unpack_q4_k)(const uint8_t *const *row, int64_t b, int r, CK_ISA(panel) *to, CK_ISA(ahead) *ahead) {
    CK_ISA(unpack_k_scales)(row, b * 144, QM_FOLD(CK_Q4_K), r, to);
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
    CK_ISA(unpack_k_scales)(row, b * 176, QM_FOLD(CK_Q5_K), r, to);
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

/* Values 0 .. 63 stand for -32 .. 31: `low` takes 32 times the sums of the activations away again. */
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
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        to->low[i][r] = ((-32 * scale[2 * i]) & 0xffff) | ((-32 * scale[2 * i + 1]) << 16);
    }
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
    to->d[r] = CK_ISA(halves_at)(row, at + 208);
}

CK_FN void CK_ISA(unpack_q8_0)(const uint8_t *const *row, int64_t b, int r, CK_ISA(panel) *to, CK_ISA(ahead) *ahead) {
    ck_ints q[8];
    to->d[r] = CK_ISA(halves_at)(row, b * 34);
    CK_ISA(fetch_ahead)(ahead);
    CK_ISA(turn_32)(row, b * 34 + 2, q);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        if (QM_OFFSET_8 != 0) {
            q[i] ^= BYTES(0x80);
        }
        if (QM_STEPS(CK_Q8_0) == 16) {
            to->byte[i][r] = q[i] & BYTES(15);
            to->byte[8 + i][r] = (q[i] >> 4) & BYTES(15);
        } else {
            to->byte[i][r] = q[i];
        }
    }
    to->scale[0][r] = CK_ISA(scale)(CK_ISA(all_ints)(1));
    to->scale[1][r] = CK_ISA(scale)(CK_ISA(all_ints)(16));
}

CK_FN void CK_ISA(unpack_q4_0)(const uint8_t *const *row, int64_t b, int r, CK_ISA(panel) *to, CK_ISA(ahead) *ahead) {
    ck_ints q[4];
    to->d[r] = CK_ISA(halves_at)(row, b * 18);
    CK_ISA(fetch_ahead)(ahead);
    CK_ISA(turn_16)(row, b * 18 + 2, q);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        to->byte[i][r] = q[i] & BYTES(15);
        to->byte[4 + i][r] = (q[i] >> 4) & BYTES(15);
    }
    to->scale[0][r] = CK_ISA(scale)(CK_ISA(all_ints)(1));
}

CK_FN void CK_ISA(unpack_q5_0)(const uint8_t *const *row, int64_t b, int r, CK_ISA(panel) *to, CK_ISA(ahead) *ahead) {
    ck_ints q[4], fifth;
    int32_t held[CK_LANES];
    to->d[r] = CK_ISA(halves_at)(row, b * 22);
    for (int i = 0; i < CK_LANES; i++) {
        memcpy(held + i, row[i] + b * 22 + 2, sizeof *held);
    }
    memcpy(&fifth, held, sizeof fifth);
    CK_ISA(fetch_ahead)(ahead);
    CK_ISA(turn_16)(row, b * 22 + 6, q);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        /* Bit j of the four goes to byte j: 2^7 + 2^14 + 2^21 + 1 puts it at 8 j, and elsewhere beside a byte's lowest bit. */
        const ck_ints four = (fifth >> (4 * i)) & 15, bit = (four * 0x204081) & BYTES(1);
        const ck_ints low = i < 4 ? q[i] & BYTES(15) : (q[i - 4] >> 4) & BYTES(15);
        to->byte[i][r] = low | (bit << 4);
    }
    to->scale[0][r] = to->scale[1][r] = CK_ISA(scale)(CK_ISA(all_ints)(1));
}

CK_FN void CK_ISA(unpack)(int type, const uint8_t *const *row, int64_t b, CK_ISA(panel) *to, CK_ISA(ahead) *ahead) {
    for (int r = 0; r < VECTORS; r++, row += CK_LANES) {
        switch (type) {
        case CK_Q4_K: CK_ISA(unpack_q4_k)(row, b, r, to, ahead); break;
        case CK_Q5_K: CK_ISA(unpack_q5_k)(row, b, r, to, ahead); break;
        case CK_Q6_K: CK_ISA(unpack_q6_k)(row, b, r, to, ahead); break;
        case CK_Q8_0: CK_ISA(unpack_q8_0)(row, b, r, to, ahead); break;
        case CK_Q4_0: CK_ISA(unpack_q4_0)(row, b, r, to, ahead); break;
        default: CK_ISA(unpack_q5_0)(row, b, r, to, ahead); break;
        }
    }
}

/* ---- products */

/* One block of a group times n tokens, n <= QM_TILE and known to the compiler: sum[t] += weight . x[t]. */
CK_FN void CK_ISA(tile)(int type, int n, const CK_ISA(panel) *w, const char *const *x, float (*sum)[ROWS]) {
    ck_ints total[QM_TILE][VECTORS];
#pragma GCC unroll 8
    for (int t = 0; t < n; t++) {
        const int offset = type == CK_Q8_0 ? QM_OFFSET_8 : type == CK_Q4_0 ? 8 : type == CK_Q5_0 ? 16 : 0;
        const ck_ints start = offset ? CK_ISA(all_ints)(-offset * ((const x32 *)x[t])->sum) : (ck_ints){0};
        total[t][0] = total[t][1] = start;
    }
    const int fold = QM_FOLD(type), n_fold = QM_STEPS(type) / QM_FOLD(type);
    for (int f = 0; f < n_fold; f++) {
        ck_ints part[QM_TILE][VECTORS];
#pragma GCC unroll 8
        for (int t = 0; t < n; t++) {
            part[t][0] = part[t][1] = (ck_ints){0};
        }
        const int first = f * fold, position = QM_IS_K(type) ? first : first % 8;
#pragma GCC unroll 8
        for (int s = 0; s < fold; s++) {
            const ck_ints a = w->byte[first + s][0], b = w->byte[first + s][1];
#pragma GCC unroll 8
            for (int t = 0; t < n; t++) {
                const ck_ints v = CK_ISA(dword)(x[t] + 4 * (position + s)); /* q stands first in x32 and x256 */
                part[t][0] = CK_ISA(step)(part[t][0], a, v);
                part[t][1] = CK_ISA(step)(part[t][1], b, v);
            }
        }
#pragma GCC unroll 8
        for (int t = 0; t < n; t++) {
            total[t][0] = CK_ISA(fold)(total[t][0], part[t][0], w->scale[f][0]);
            total[t][1] = CK_ISA(fold)(total[t][1], part[t][1], w->scale[f][1]);
        }
    }
#pragma GCC unroll 8
    for (int t = 0; t < n; t++) {
        const x256 *wide = (const x256 *)x[t];
        const ckv   dx = ck_all(QM_IS_K(type) ? wide->d : ((const x32 *)x[t])->d);
#pragma GCC unroll 2
        for (int r = 0; r < VECTORS; r++) {
            ckv y = ck_load(sum[t] + r * CK_LANES);
            ck_ints low = {0};
            if (type == CK_Q6_K) {
                for (int i = 0; i < 8; i++) {
                    total[t][r] = CK_ISA(add_pairs)(total[t][r], w->low[i][r], CK_ISA(dword)(wide->sum + 2 * i));
                }
            } else if (QM_IS_K(type)) {
                for (int i = 0; i < 4; i++) {
                    low = CK_ISA(add_pairs)(low, w->low[i][r], CK_ISA(dword)(wide->sum_32 + 2 * i));
                }
            }
            y = ck_fma(dx * w->d[r], __builtin_convertvector(total[t][r], ckv), y);
            if (type == CK_Q4_K || type == CK_Q5_K) {
                y = ck_fma(dx * w->d_low[r], __builtin_convertvector(low, ckv), y);
            }
            ck_store(sum[t] + r * CK_LANES, y);
        }
    }
}

/* Row pointers of a group; behind the last row of the matrix the last one again. */
CK_FN void CK_ISA(point_at_rows)(const product *p, int64_t first, const uint8_t **row) {
    for (int i = 0; i < ROWS; i++) {
        row[i] = p->weight + (first + i < p->N ? first + i : p->N - 1) * p->row_bytes;
    }
}

CK_FN void CK_ISA(store_group)(const product *p, const batch *tokens, int64_t first, float (*sum)[ROWS]) {
    const size_t rows = (size_t)(p->N - first < ROWS ? p->N - first : ROWS);
    for (int64_t t = 0; t < tokens->n; t++) {
        memcpy(tokens->y[t] + first, sum[t], rows * sizeof(float));
    }
}

CK_FN CK_ISA(ahead) CK_ISA(start_ahead)(const product *p, int64_t first, int64_t n_call) {
    const uint8_t *end = p->weight + p->N * p->row_bytes, *next = p->weight + (first + ROWS) * p->row_bytes;
    return (CK_ISA(ahead)){next, end, ROWS * p->row_bytes / n_call, 63};
}

CK_FN void CK_ISA(multiply_group)(int type, const product *p, const batch *tokens, int64_t first) {
    float          sum[QM_BATCH][ROWS];
    CK_ISA(panel)  w;
    const uint8_t *row[ROWS];
    const int64_t  x_size = QM_IS_K(type) ? sizeof(x256) : sizeof(x32);
    CK_ISA(point_at_rows)(p, first, row);
    memset(sum, 0, (size_t)tokens->n * sizeof *sum);
    CK_ISA(ahead) ahead = CK_ISA(start_ahead)(p, first, VECTORS * (QM_IS_K(type) ? 4 : 1) * p->n_block);
    for (int64_t b = 0; b < p->n_block; b++) {
        CK_ISA(unpack)(type, row, b, &w, &ahead);
        const char *x[QM_TILE];
        for (int64_t t = 0; t < tokens->n; t += QM_TILE) {
            const int64_t n = tokens->n - t < QM_TILE ? tokens->n - t : QM_TILE;
            for (int i = 0; i < n; i++) {
                x[i] = p->rounded + (b * p->n_x + tokens->x[t + i]) * x_size;
            }
            switch (n) {
            case 1: CK_ISA(tile)(type, 1, &w, x, sum + t); break;
            case 2: CK_ISA(tile)(type, 2, &w, x, sum + t); break;
            case 3: CK_ISA(tile)(type, 3, &w, x, sum + t); break;
            default: CK_ISA(tile)(type, 4, &w, x, sum + t); break;
            }
        }
    }
    CK_ISA(store_group)(p, tokens, first, sum);
}

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

CK_FN void CK_ISA(float_tile)(int n, int n_k, const float *w, const float *const *x, float (*sum)[ROWS]) {
    ckv part[QM_TILE][VECTORS];
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
        const float *x[QM_TILE];
        for (int64_t t = 0; t < tokens->n; t += QM_TILE) {
            const int64_t n = tokens->n - t < QM_TILE ? tokens->n - t : QM_TILE;
            for (int i = 0; i < n; i++) {
                x[i] = ck_at(p->x, tokens->x[t + i]) + k;
            }
            switch (n) {
            case 1: CK_ISA(float_tile)(1, n_k, w, x, sum + t); break;
            case 2: CK_ISA(float_tile)(2, n_k, w, x, sum + t); break;
            case 3: CK_ISA(float_tile)(3, n_k, w, x, sum + t); break;
            default: CK_ISA(float_tile)(4, n_k, w, x, sum + t); break;
            }
        }
    }
    CK_ISA(store_group)(p, tokens, first, sum);
}

/* Rows first .. end of the weight times one batch; first is a multiple of QM_SHARE. */
static void CK_ISA(multiply)(const product *p, const batch *tokens, int64_t first, int64_t end) {
    for (; first < end; first += ROWS) {
        switch (p->type) {
        case CK_Q4_K: CK_ISA(multiply_group)(CK_Q4_K, p, tokens, first); break;
        case CK_Q5_K: CK_ISA(multiply_group)(CK_Q5_K, p, tokens, first); break;
        case CK_Q6_K: CK_ISA(multiply_group)(CK_Q6_K, p, tokens, first); break;
        case CK_Q8_0: CK_ISA(multiply_group)(CK_Q8_0, p, tokens, first); break;
        case CK_Q4_0: CK_ISA(multiply_group)(CK_Q4_0, p, tokens, first); break;
        case CK_Q5_0: CK_ISA(multiply_group)(CK_Q5_0, p, tokens, first); break;
        case CK_F16: CK_ISA(multiply_floats)(CK_F16, p, tokens, first); break;
        case CK_BF16: CK_ISA(multiply_floats)(CK_BF16, p, tokens, first); break;
        default: CK_ISA(multiply_floats)(CK_F32, p, tokens, first); break;
        }
    }
}
#undef VECTORS
#undef ROWS
#undef DEEP
#undef BYTES
#undef QM_FOLD
#undef QM_STEPS
#undef QM_OFFSET_8
