/* conifer.gated_delta/1: the gated delta rule. Yang et al. 2024, arXiv:2412.06464, equation 10; with a decay per key channel
 * Kimi Delta Attention, arXiv:2510.26692, section 3.
 *
 *     S <- decay S;  u = beta (v - S k);  S <- S + u k';  o = scale S q          S: [V][I] per head
 *
 * Parts share out the heads. The loops are in gated_delta_loops.h, written once for every instruction set. */
#include "conifer_check.h"
#include "conifer_kernel.h"

#include <string.h>

enum { Q, K, V, GATE, BETA, A, DT_BIAS, N_INPUT };
enum { HEAD_MAP, QK_NORM, BETA_ACT, N_INT };
enum { SCALE, EPS, N_REAL };
enum {
    CHUNK = 16,  /* tokens that are prepared together and that a block of rows passes before the next block */
    ROWS = 8,    /* most rows of the carry in one pass */
    AHEAD = 512  /* floats of the carry that are asked for before they are needed, for one token */
};

typedef struct {
    const ck_tensor *q, *k, *v, *gate, *beta, *o;
    const float     *a, *dt_bias; /* may be NULL */
    int64_t          H, J, I, V;
    int64_t          deep;  /* I rounded up to whole vectors of any set */
    int64_t          chunk; /* tokens: CHUNK, or fewer, so that their keys and queries fit into the nearest cache */
    float            scale, eps;
    int              tiled, normalise, sigmoid, per_channel;
} delta_call;

typedef struct { /* scratch of one part */
    float *k, *q, *decay, *faded_k, *faded_q, *alpha, *beta, *both;
} delta_room;

#define CK_LOOPS "gated_delta_loops.h"
#include "conifer_simd.h"

static int64_t whole_vectors(int64_t n) { return (n + 15) / 16 * 16; }

static int64_t room_of_part(int64_t I) { return 5 * CHUNK * whole_vectors(I) + 3 * CHUNK; }

static ck_status check_sizes(const ck_call *c, ck_error *err) {
    const int64_t T = c->input[Q]->dim[0], J = c->input[Q]->dim[1], I = c->input[Q]->dim[2];
    const int64_t H = c->input[V]->dim[1], size_v = c->input[V]->dim[2];
    if (J < 1 || H % J != 0) {
        return ck_refuse(err, "v has %lld heads on axis 1, not a multiple of q's %lld", (long long)H, (long long)J);
    }
    CK_TRY(ck_expect_sizes(c->input[K], "k", (const int64_t[]){T, J, I}, err));
    CK_TRY(ck_expect_sizes(c->input[V], "v", (const int64_t[]){T, H, size_v}, err));
    CK_TRY(ck_expect_sizes(c->input[GATE], "gate", (const int64_t[]){T, H, I}, err));
    CK_TRY(ck_expect_sizes(c->input[BETA], "beta", (const int64_t[]){T, H}, err));
    CK_TRY(ck_expect_sizes(c->input[A], "A", (const int64_t[]){H}, err));
    CK_TRY(ck_expect_sizes(c->input[DT_BIAS], "dt_bias", (const int64_t[]){H, I}, err));
    CK_TRY(ck_expect_sizes(c->state[0], "delta", (const int64_t[]){c->state[0]->dim[0], H, size_v, I}, err));
    return ck_expect_sizes(c->output[0], "o", (const int64_t[]){T, H, size_v}, err);
}

static ck_status check(const ck_call *c, ck_error *err) {
    CK_TRY(ck_expect_counts(c, N_INPUT, 1, N_INT, N_REAL, err));
    CK_TRY(ck_expect_choice(c, HEAD_MAP, "head_map", 2, err));
    CK_TRY(ck_expect_choice(c, QK_NORM, "qk_norm", 2, err));
    CK_TRY(ck_expect_choice(c, BETA_ACT, "beta_act", 2, err));
    const ck_tensor *gate = c->input[GATE];
    const uint32_t   channels = gate != NULL && gate->rank == 3; /* the gate has one more axis where it is per channel */
    CK_TRY(ck_expect_rank(c->input[Q], "q", 3, 0, err));
    CK_TRY(ck_expect_rank(c->input[K], "k", 3, 0, err));
    CK_TRY(ck_expect_rank(c->input[V], "v", 3, 0, err));
    CK_TRY(ck_expect_rank(gate, "gate", 2 + channels, 0, err));
    CK_TRY(ck_expect_rank(c->input[BETA], "beta", 2, 0, err));
    CK_TRY(ck_expect_rank(c->input[A], "A", 1, 1, err));
    CK_TRY(ck_expect_rank(c->input[DT_BIAS], "dt_bias", 1 + channels, 1, err));
    CK_TRY(ck_expect_rank(c->state[0], "delta", 4, 0, err));
    CK_TRY(ck_expect_rank(c->output[0], "o", 3, 0, err));
    if (c->input[DT_BIAS] != NULL && c->input[A] == NULL) {
        return ck_refuse(err, "A is missing, dt_bias needs it");
    }
    return check_sizes(c, err);
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
    need->scratch_bytes = sizeof(float) * (uint64_t)(max_part * room_of_part(c->input[Q]->dim[2]));
    need->packed_bytes = 0;
    return CK_OK;
}

static delta_room lay_out(float *scratch, const delta_call *s, uint32_t part) {
    delta_room r;
    float *at = scratch + part * room_of_part(s->I);
    r.k = at, at += CHUNK * s->deep;
    r.q = at, at += CHUNK * s->deep;
    r.decay = at, at += CHUNK * s->deep;
    r.faded_k = at, at += CHUNK * s->deep;
    r.faded_q = at, at += CHUNK * s->deep;
    r.alpha = at, at += CHUNK;
    r.beta = at, at += CHUNK;
    r.both = at;
    return r;
}

static const float *constant(const ck_tensor *t) { return t != NULL ? (const float *)t->data : NULL; }

static ck_status CK_CALL run(const void *self, const ck_part *part) {
    (void)self;
    const ck_call *c = part->call;
    const delta_call s = {
        .q = c->input[Q], .k = c->input[K], .v = c->input[V], .gate = c->input[GATE], .beta = c->input[BETA],
        .o = c->output[0], .a = constant(c->input[A]), .dt_bias = constant(c->input[DT_BIAS]),
        .H = c->input[V]->dim[1], .J = c->input[Q]->dim[1], .I = c->input[Q]->dim[2], .V = c->input[V]->dim[2],
        .chunk = c->input[GATE]->rank == 3 ? CHUNK / 2 : CHUNK,
        .deep = whole_vectors(c->input[Q]->dim[2]),
        .scale = (float)c->real_attr[SCALE], .eps = (float)c->real_attr[EPS], .tiled = c->int_attr[HEAD_MAP] == 1,
        .normalise = c->int_attr[QK_NORM] == 1, .sigmoid = c->int_attr[BETA_ACT] == 1,
        .per_channel = c->input[GATE]->rank == 3,
    };
    const int64_t head = ck_share(s.H, part->part, part->n_part), end = ck_share(s.H, part->part + 1, part->n_part);
    const delta_room room = lay_out(part->scratch, &s, part->part);
    for (uint32_t i = 0; i < c->n_seq; i++) {
        const int64_t start = c->seq_start[i], n = c->seq_start[i + 1] - start;
        if (n > 0 && head < end) {
            CK_DISPATCH(delta_sequence, &s, head, end, start, n, ck_at(c->state[0], c->slot[i]), &room);
        }
    }
    for (int64_t t = c->seq_start[c->n_seq]; t < s.o->dim[0]; t++) {
        for (int64_t h = head; h < end; h++) {
            memset(ck_at2(s.o, t, h), 0, (size_t)s.V * sizeof(float));
        }
    }
    return CK_OK;
}

static const ck_kernel KERNEL = {sizeof(ck_kernel), 0, "conifer.gated_delta/1", NULL, supports, plan, NULL, run};
static const ck_kernel *const KERNELS[] = {&KERNEL};
static const ck_plugin PLUGIN = {sizeof(ck_plugin), CK_ABI_MINOR, "org.conifer.gated-delta", "0.1.0", 1, 0, KERNELS};

CK_EXPORT const ck_plugin *CK_CALL conifer_kernel_entry_v1(const ck_host *host, ck_error *err) {
    (void)host, (void)err;
    return &PLUGIN;
}
