/* The same kernel under another id, with a preference above 0. */
#define PLUGIN_ID "org.example.eager"
#define PREFERENCE 10
#include "plain_ssd_scan.h"
