/* Which kernels ran, with which grids: what a test may ask about afterwards. Noted only while somebody watches.
 * And whether launches are carried out at all. */
#include "host.h"
#include <stdatomic.h>
#include <stdlib.h>

typedef struct { const char *key; int32_t grid[3]; } launch;
static launch *launches;
static int count, capacity;
static bool watching;
static atomic_bool discarding;

void host_note_launch(const char *key, const int32_t grid[3]) {
  if (!watching) return;
  if (count == capacity) launches = realloc(launches, (capacity = capacity * 2 + 16) * sizeof *launches);
  launches[count++] = (launch){key, {grid[0], grid[1], grid[2]}};
}

/* From here on; forgets what was noted before. */
void host_cann_watch_launches(bool on) {
  HOST_LOCKED;
  watching = on;
  if (on) count = 0;
}

/* The name under which the compiler kept the launch's program; NULL past the last launch. */
const char *host_cann_launch(int index, int32_t grid[3]) {
  HOST_LOCKED;
  if (index < 0 || index >= count) return NULL;
  for (int i = 0; i < 3; i++) grid[i] = launches[index].grid[i];
  return launches[index].key;
}

/* From here on a launch returns at the runtime's entry, and its kernel never runs: to measure what comes before. */
void host_cann_discard_launches(bool on) { discarding = on; }
bool host_discards_launches(void) { return discarding; }
