/* Says which instruction set it was compiled for, and whether products of bytes may be used there. */
#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)
static void CK_ISA(say)(void) { printf("%s %d\n", TEXT(CK_SET), CK_HAS_DOT8); }
