#include "plain_ssd_scan.h"
