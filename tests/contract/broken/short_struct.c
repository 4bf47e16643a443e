/* A kernel that says that its ck_plugin ends before the list of kernels. */
#define PLUGIN_SIZE 32
#include "plain_ssd_scan.h"
