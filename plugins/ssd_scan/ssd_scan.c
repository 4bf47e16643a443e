/* conifer.ssd_scan/1: Mamba-2's state space scan. Dao & Gu 2024, arXiv:2405.21060, section 7.
 *
 *     delta = clamp(softplus(dt + dt_bias));  s = exp(delta A) s + delta x B';  y = (C s + D x) silu(z)
 *
 * Parts share out the heads. The loops are in ssd_scan_loops.h, written once for every instruction set. */
#include "conifer_check.h"
#include "conifer_kernel.h"

#include <string.h>

enum { X, DT, A, B, C, DT_BIAS, D, Z, N_INPUT };
enum {
    CHUNK = 16, /* tokens that two rows of the carry pass in registers, and that delta is computed for at once */
    HEADS = 8,  /* of a group that take turns in a chunk */
    LANES = 16, /* of the widest vector */
    AHEAD = 1024 /* floats of the carry that are asked for before they are needed, for one token */
};

typedef struct {
    const ck_tensor *x, *dt, *B, *C, *z, *y; /* z may be NULL */
    const float     *a, *dt_bias, *d;        /* dt_bias and d may be NULL */
    int64_t          H, P, N, G;
    int64_t          wide;  /* N rounded up to whole vectors of any set */
    int64_t          chunk; /* tokens: CHUNK, or fewer, so that their B and C fit into the nearest cache */
    float            dt_min, dt_max;
    int              softplus;
} scan_call;

typedef struct { /* scratch of one part, for one chunk */
    float *B, *C;          /* [token][wide], zeros past N */
    float *sum;            /* [token][row][lane]: what is to be added up to y */
    float *weight;         /* [token][row]: delta x */
    float *delta, *decay;  /* [head][token] */
} scan_room;

#define CK_LOOPS "ssd_scan_loops.h"
#include "conifer_simd.h"

static int64_t whole_vectors(int64_t n) { return (n + LANES - 1) / LANES * LANES; }

static int64_t room_of_part(int64_t N) { return CHUNK * (2 * whole_vectors(N) + LANES * LANES + LANES + 2 * HEADS); }

static ck_status check(const ck_call *c, ck_error *err) {
    static const char *const name[N_INPUT] = {"x", "dt", "A", "B", "C", "dt_bias", "D", "z"};
    static const uint32_t    rank[N_INPUT] = {3, 2, 1, 3, 3, 1, 1, 3};
    CK_TRY(ck_expect_counts(c, N_INPUT, 1, 1, 2, err));
    CK_TRY(ck_expect_choice(c, 0, "dt_softplus", 2, err));
    for (int i = 0; i < N_INPUT; i++) {
        CK_TRY(ck_expect_rank(c->input[i], name[i], rank[i], i >= DT_BIAS, err));
    }
    CK_TRY(ck_expect_rank(c->state[0], "ssm", 4, 0, err));
    CK_TRY(ck_expect_rank(c->output[0], "y", 3, 0, err));
    const int64_t T = c->input[X]->dim[0], H = c->input[X]->dim[1], P = c->input[X]->dim[2];
    const int64_t G = c->input[B]->dim[1], N = c->input[B]->dim[2], slots = c->state[0]->dim[0];
    if (G < 1 || H % G != 0) {
        return ck_refuse(err, "x has %lld heads on axis 1, not a multiple of B's %lld groups", (long long)H, (long long)G);
    }
    const int64_t size[N_INPUT][3] = {{T, H, P}, {T, H}, {H}, {T, G, N}, {T, G, N}, {H}, {H}, {T, H, P}};
    for (int i = 0; i < N_INPUT; i++) {
        CK_TRY(ck_expect_sizes(c->input[i], name[i], size[i], err));
    }
    CK_TRY(ck_expect_sizes(c->state[0], "ssm", (const int64_t[]){slots, H, P, N}, err));
    return ck_expect_sizes(c->output[0], "y", size[X], err);
}

static ck_status CK_CALL supports(const void *self, const ck_call *call, ck_error *err) {
    (void)self;
    return check(call, err);
}

static ck_status CK_CALL plan(const void *self, const ck_call *c, uint32_t max_part, ck_need *need, ck_error *err) {
    (void)self;
    CK_TRY(check(c, err));
    need->n_phase = 1;
    ck_promise(need, CK_SPLIT_EXACT);
    need->scratch_bytes = sizeof(float) * (uint64_t)(max_part * room_of_part(c->input[B]->dim[2]));
    need->packed_bytes = 0;
    return CK_OK;
}

static scan_room lay_out(float *scratch, int64_t N, uint32_t part) {
    scan_room r;
    float *at = scratch + part * room_of_part(N);
    r.B = at, at += CHUNK * whole_vectors(N);
    r.C = at, at += CHUNK * whole_vectors(N);
    r.sum = at, at += CHUNK * LANES * LANES;
    r.weight = at, at += CHUNK * LANES;
    r.delta = at, at += HEADS * CHUNK;
    r.decay = at;
    return r;
}

static const float *constant(const ck_tensor *t) { return t != NULL ? (const float *)t->data : NULL; }

static ck_status CK_CALL run(const void *self, const ck_part *part) {
    (void)self;
    const ck_call *c = part->call;
    const scan_call s = {
        .x = c->input[X], .dt = c->input[DT], .B = c->input[B], .C = c->input[C], .z = c->input[Z], .y = c->output[0],
        .a = constant(c->input[A]), .dt_bias = constant(c->input[DT_BIAS]), .d = constant(c->input[D]),
        .wide = whole_vectors(c->input[B]->dim[2]), .chunk = c->input[B]->dim[2] <= 128 ? CHUNK : CHUNK / 2,
        .H = c->input[X]->dim[1], .P = c->input[X]->dim[2], .N = c->input[B]->dim[2], .G = c->input[B]->dim[1],
        .dt_min = (float)c->real_attr[0], .dt_max = (float)c->real_attr[1], .softplus = c->int_attr[0] != 0,
    };
    const int64_t head = ck_share(s.H, part->part, part->n_part), end = ck_share(s.H, part->part + 1, part->n_part);
    const scan_room room = lay_out(part->scratch, s.N, part->part);
    for (uint32_t i = 0; i < c->n_seq; i++) {
        const int64_t start = c->seq_start[i], n = c->seq_start[i + 1] - start;
        if (n > 0 && head < end) {
            CK_DISPATCH(scan_sequence, &s, head, end, start, n, ck_at(c->state[0], c->slot[i]), &room);
        }
    }
    for (int64_t t = c->seq_start[c->n_seq]; t < s.y->dim[0]; t++) {
        for (int64_t h = head; h < end; h++) {
            memset(ck_at2(s.y, t, h), 0, (size_t)s.P * sizeof(float));
        }
    }
    return CK_OK;
}

static const ck_kernel KERNEL = {sizeof(ck_kernel), 0, "conifer.ssd_scan/1", NULL, supports, plan, NULL, run};
static const ck_kernel *const KERNELS[] = {&KERNEL};
static const ck_plugin PLUGIN = {sizeof(ck_plugin), CK_ABI_MINOR, "org.conifer.ssd-scan", "0.1.0", 1, 0, KERNELS};

CK_EXPORT const ck_plugin *CK_CALL conifer_kernel_entry_v1(const ck_host *host, ck_error *err) {
    (void)host, (void)err;
    return &PLUGIN;
}
