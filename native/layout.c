/* Freezes the ABI: type, place and size of every field, the size of every struct, every number and the entry's signature. A field
 * that is added must land at the end, and the size in STRUCT below is then a deliberate change; no other line may change as long
 * as the major lives. Compiled with -Wpadded -Werror, so that padding is spelled out as `reserved`. Valid C11 and C++11. */
#include "conifer_kernel.h"

#ifdef __cplusplus
template <class A, class B> struct same { static const bool value = false; };
template <class A> struct same<A, A> { static const bool value = true; };
#define LAYOUT_ASSERT static_assert
#define HAS_TYPE(struct_, field, type_) same<decltype(((struct_ *)0)->field), type_>::value
#define IS_FUNCTION(name, type_) same<decltype(&name), type_>::value
#else
#define LAYOUT_ASSERT _Static_assert
#define HAS_TYPE(struct_, field, type_) _Generic(&((struct_ *)0)->field, type_ *: 1, default: 0)
#define IS_FUNCTION(name, type_) _Generic(&name, type_: 1, default: 0)
#endif

#define STRUCT(type, last, size)                                                                                       \
    LAYOUT_ASSERT(sizeof(type) == (size), #type " has changed its size");                                              \
    LAYOUT_ASSERT(offsetof(type, last) + sizeof(((type *)0)->last) == (size), #type " has a tail")
#define FIELD(struct_, offset, type_, field)                                                                           \
    LAYOUT_ASSERT(offsetof(struct_, field) == (offset), #struct_ "." #field " has moved");                             \
    LAYOUT_ASSERT(HAS_TYPE(struct_, field, type_), #struct_ "." #field " has another type")
#define NUMBER(name, value) LAYOUT_ASSERT(name == (value), #name " has another value")

typedef char       *text;
typedef const char *constant_text;
typedef const void *constant_data;
typedef void       *data;
typedef const int64_t *constant_int64s;
typedef const int32_t *constant_int32s;
typedef const double  *constant_doubles;
typedef const ck_ext  *next_ext;
typedef const ck_call *the_call;
typedef const ck_tensor *const *tensors;
typedef const ck_kernel *const *kernels;
typedef ck_status(CK_CALL *supports_function)(const void *, const ck_call *, ck_error *);
typedef ck_status(CK_CALL *plan_function)(const void *, const ck_call *, uint32_t, ck_need *, ck_error *);
typedef ck_status(CK_CALL *part_function)(const void *, const ck_part *);
typedef const void *(CK_CALL *extension_function)(const char *);
typedef const ck_plugin *(CK_CALL *entry_function)(const ck_host *, ck_error *);

LAYOUT_ASSERT(sizeof(void *) == 8, "64-bit hosts only");
LAYOUT_ASSERT(sizeof(ck_status) == 4, "ck_status has changed its size");
LAYOUT_ASSERT(IS_FUNCTION(conifer_kernel_entry_v1, entry_function), "the entry has another signature");

STRUCT(ck_error, text, 16);
FIELD(ck_error, 0, uint32_t, struct_size);
FIELD(ck_error, 4, uint32_t, text_capacity);
FIELD(ck_error, 8, text, text);

STRUCT(ck_ext, next, 24);
FIELD(ck_ext, 0, uint32_t, struct_size);
FIELD(ck_ext, 4, uint32_t, reserved);
FIELD(ck_ext, 8, constant_text, id);
FIELD(ck_ext, 16, next_ext, next);

STRUCT(ck_tensor, data, 40);
FIELD(ck_tensor, 0, uint32_t, struct_size);
FIELD(ck_tensor, 4, uint32_t, dtype);
FIELD(ck_tensor, 8, uint32_t, rank);
FIELD(ck_tensor, 12, uint32_t, flags);
FIELD(ck_tensor, 16, constant_int64s, dim);
FIELD(ck_tensor, 24, constant_int64s, stride_bytes);
FIELD(ck_tensor, 32, data, data);

STRUCT(ck_call, next, 96);
FIELD(ck_call, 0, uint32_t, struct_size);
FIELD(ck_call, 4, uint32_t, n_input);
FIELD(ck_call, 8, uint32_t, n_state);
FIELD(ck_call, 12, uint32_t, n_output);
FIELD(ck_call, 16, uint32_t, n_int);
FIELD(ck_call, 20, uint32_t, n_real);
FIELD(ck_call, 24, uint32_t, n_seq);
FIELD(ck_call, 28, uint32_t, reserved);
FIELD(ck_call, 32, tensors, input);
FIELD(ck_call, 40, tensors, state);
FIELD(ck_call, 48, tensors, output);
FIELD(ck_call, 56, constant_int64s, int_attr);
FIELD(ck_call, 64, constant_doubles, real_attr);
FIELD(ck_call, 72, constant_int32s, seq_start);
FIELD(ck_call, 80, constant_int32s, slot);
FIELD(ck_call, 88, next_ext, next);

STRUCT(ck_need, reserved, 32);
FIELD(ck_need, 0, uint32_t, struct_size);
FIELD(ck_need, 4, uint32_t, n_phase);
FIELD(ck_need, 8, uint64_t, scratch_bytes);
FIELD(ck_need, 16, uint64_t, packed_bytes);
FIELD(ck_need, 24, uint32_t, flags);
FIELD(ck_need, 28, uint32_t, reserved);

STRUCT(ck_part, packed, 40);
FIELD(ck_part, 0, uint32_t, struct_size);
FIELD(ck_part, 4, uint32_t, part);
FIELD(ck_part, 8, uint32_t, n_part);
FIELD(ck_part, 12, uint32_t, phase);
FIELD(ck_part, 16, the_call, call);
FIELD(ck_part, 24, data, scratch);
FIELD(ck_part, 32, data, packed);

STRUCT(ck_kernel, run, 56);
FIELD(ck_kernel, 0, uint32_t, struct_size);
FIELD(ck_kernel, 4, uint32_t, preference);
FIELD(ck_kernel, 8, constant_text, op);
FIELD(ck_kernel, 16, constant_data, self);
FIELD(ck_kernel, 24, supports_function, supports);
FIELD(ck_kernel, 32, plan_function, plan);
FIELD(ck_kernel, 40, part_function, pack);
FIELD(ck_kernel, 48, part_function, run);

STRUCT(ck_plugin, kernel, 40);
FIELD(ck_plugin, 0, uint32_t, struct_size);
FIELD(ck_plugin, 4, uint32_t, abi_minor);
FIELD(ck_plugin, 8, constant_text, id);
FIELD(ck_plugin, 16, constant_text, version);
FIELD(ck_plugin, 24, uint32_t, n_kernel);
FIELD(ck_plugin, 28, uint32_t, reserved);
FIELD(ck_plugin, 32, kernels, kernel);

STRUCT(ck_host, extension, 16);
FIELD(ck_host, 0, uint32_t, struct_size);
FIELD(ck_host, 4, uint32_t, abi_minor);
FIELD(ck_host, 8, extension_function, extension);

NUMBER(CK_OK, 0);
NUMBER(CK_UNSUPPORTED, 1);
NUMBER(CK_BAD_SHAPE, 2);
NUMBER(CK_NO_MEMORY, 3);
NUMBER(CK_INTERNAL, 4);

NUMBER(CK_F32, 0);
NUMBER(CK_F16, 1);
NUMBER(CK_BF16, 2);
NUMBER(CK_I8, 3);
NUMBER(CK_I32, 4);
NUMBER(CK_I64, 5);
NUMBER(CK_Q8_0, 32);
NUMBER(CK_Q4_0, 33);
NUMBER(CK_Q4_K, 34);
NUMBER(CK_Q5_K, 35);
NUMBER(CK_Q6_K, 36);
NUMBER(CK_Q5_0, 37);

NUMBER(CK_CONSTANT, 1);
NUMBER(CK_SPLIT_EXACT, 1);
