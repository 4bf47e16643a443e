/* The loop of example.my_scan/1, for one instruction set. Included by my_scan.c through conifer_simd.h.
 *
 * In plain words, for each channel i:  for each token t:  h[i] = decay[i] h[i] + (1 - decay[i]) x[t][i];  y[t][i] = h[i] */

/* Channels first .. end of one sequence: the carry stays in a register while its tokens pass. */
static void CK_ISA(scan_channels)(const scan_call *s, int64_t first, int64_t end, int64_t start, int64_t n, float *carry) {
    int64_t i = first;
    for (; i + CK_LANES <= end; i += CK_LANES) {
        const ckv decay = ck_load(s->decay + i), rest = ck_all(1.0f) - decay;
        ckv h = ck_load(carry + i);
        for (int64_t t = start; t < start + n; t++) {
            h = ck_fma(decay, h, rest * ck_load(ck_at(s->x, t) + i));
            ck_store(ck_at(s->y, t) + i, h);
        }
        ck_store(carry + i, h);
    }
    if (i < end) {
        const int64_t left = end - i;
        const ckv decay = ck_load_part(s->decay + i, left), rest = ck_all(1.0f) - decay;
        ckv h = ck_load_part(carry + i, left);
        for (int64_t t = start; t < start + n; t++) {
            h = ck_fma(decay, h, rest * ck_load_part(ck_at(s->x, t) + i, left));
            ck_store_part(ck_at(s->y, t) + i, h, left);
        }
        ck_store_part(carry + i, h, left);
    }
}
