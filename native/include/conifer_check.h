/* conifer_check.h: the questions that every `supports` asks, with answers that name operand, axis and value. */
#ifndef CONIFER_CHECK_H
#define CONIFER_CHECK_H
#include <stdarg.h>
#include <stdio.h>

#include "conifer_kernel.h"

/* Write why a call is refused; returns CK_BAD_SHAPE, so that a check can end with it. */
static inline __attribute__((format(printf, 2, 3), unused)) ck_status ck_refuse(ck_error *err, const char *format, ...) {
    if (err != NULL && err->text != NULL && err->text_capacity > 0) {
        va_list values;
        va_start(values, format);
        vsnprintf(err->text, err->text_capacity, format, values);
        va_end(values);
    }
    return CK_BAD_SHAPE;
}

/* Are there as many operands and attributes as the op has? */
static inline __attribute__((unused)) ck_status ck_expect_counts(const ck_call *c, uint32_t n_input, uint32_t n_state,
                                                                uint32_t n_int, uint32_t n_real, ck_error *err) {
    if (c->n_input != n_input || c->n_state != n_state || c->n_output != 1 || c->n_int != n_int || c->n_real != n_real) {
        return ck_refuse(err, "%u inputs, %u states, %u outputs, %u integer and %u real attributes; the op has %u, %u, 1, %u, %u",
                         c->n_input, c->n_state, c->n_output, c->n_int, c->n_real, n_input, n_state, n_int, n_real);
    }
    return CK_OK;
}

/* Is the operand a float32 view of this rank? `optional` ones may be missing. */
static inline __attribute__((unused)) ck_status ck_expect_rank(const ck_tensor *t, const char *name, uint32_t rank, int optional,
                                                              ck_error *err) {
    if (t == NULL) {
        return optional ? CK_OK : ck_refuse(err, "%s is missing", name);
    }
    if (t->dtype != CK_F32) {
        return ck_refuse(err, "%s has dtype %u, f32 (%u) is expected", name, t->dtype, (unsigned)CK_F32);
    }
    if (t->rank != rank) {
        return ck_refuse(err, "%s has %u axes, %u are expected", name, t->rank, rank);
    }
    return CK_OK;
}

/* Has the operand these sizes? Its rank was checked; a missing one passes. */
static inline __attribute__((unused)) ck_status ck_expect_sizes(const ck_tensor *t, const char *name, const int64_t *size,
                                                               ck_error *err) {
    for (uint32_t i = 0; t != NULL && i < t->rank; i++) {
        if (t->dim[i] != size[i]) {
            return ck_refuse(err, "%s has %lld on axis %u, %lld is expected", name, (long long)t->dim[i], i, (long long)size[i]);
        }
    }
    return CK_OK;
}

/* Is the attribute one of 0 .. n - 1? */
static inline __attribute__((unused)) ck_status ck_expect_choice(const ck_call *c, uint32_t index, const char *name, int64_t n,
                                                                ck_error *err) {
    if (c->int_attr[index] < 0 || c->int_attr[index] >= n) {
        return ck_refuse(err, "%s is %lld, 0 to %lld are known", name, (long long)c->int_attr[index], (long long)n - 1);
    }
    return CK_OK;
}

/* Promise CK_SPLIT_EXACT, where the host asks. */
static inline __attribute__((unused)) void ck_promise(ck_need *need, uint32_t flags) {
    if (CK_HAS(need, ck_need, flags)) {
        need->flags |= flags;
    }
}

#define CK_TRY(check)                                                                                                  \
    do {                                                                                                               \
        ck_status tried = (check);                                                                                     \
        if (tried != CK_OK) {                                                                                          \
            return tried;                                                                                              \
        }                                                                                                              \
    } while (0)

/* The element at token t (and head h) of a view. */
static inline __attribute__((unused)) float *ck_at(const ck_tensor *t, int64_t i) {
    return (float *)((char *)t->data + i * t->stride_bytes[0]);
}

static inline __attribute__((unused)) float *ck_at2(const ck_tensor *t, int64_t i, int64_t j) {
    return (float *)((char *)t->data + i * t->stride_bytes[0] + j * t->stride_bytes[1]);
}

/* The share of n things that part i of n_part does: first and end. */
static inline __attribute__((unused)) int64_t ck_share(int64_t n, uint32_t i, uint32_t n_part) { return n * i / n_part; }
#endif
