/* torch-npu has a thread that asks every microsecond whether there is something to free, and so keeps a core busy that an
   NPU's host has and a laptop has not. Every wait of this process that ends by time, and of threads and processes that it
   starts, may take so much longer. */
#include <sys/prctl.h>

static const unsigned long LONGER = 5000000; /* nanoseconds */

__attribute__((constructor)) static void wait_longer(void) { prctl(PR_SET_TIMERSLACK, LONGER, 0, 0, 0); }
