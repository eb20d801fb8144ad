/* torch-npu has a thread that waits a microsecond at a time until there is something to free: thousands of times a second
   in each process, also in idle ones. Every wait of this process that ends by time, and of threads and processes that it
   starts, may take so much longer. */
#include <sys/prctl.h>

static const unsigned long LONGER = 5000000; /* nanoseconds */

__attribute__((constructor)) static void wait_longer(void) { prctl(PR_SET_TIMERSLACK, LONGER, 0, 0, 0); }
