/* The loop of conifer_multiply_add, for one instruction set. Included by host_shim.c through conifer_simd.h. */

/* n rounds; `made` becomes how many products they had. More sums than a multiply-add takes cycles times units: none waits. */
static void CK_ISA(multiply_add)(int64_t n, float *left, int64_t *made) {
    ckv sum[SUMS], total = ck_all(0.0f);
#pragma GCC unroll 12
    for (int i = 0; i < SUMS; i++) {
        sum[i] = ck_all((float)i);
    }
    const ckv factor = ck_all(*left), more = ck_all(1.0f - *left);
    for (int64_t round = 0; round < n; round++) {
#pragma GCC unroll 12
        for (int i = 0; i < SUMS; i++) {
            sum[i] = ck_fma(sum[i], factor, more);
        }
    }
#pragma GCC unroll 12
    for (int i = 0; i < SUMS; i++) {
        total += sum[i];
    }
    *left = ck_sum(total);
    *made = n * SUMS * CK_LANES;
}
