/* Walking the operands of a vector instruction: masks, strides, and what may overlap what. */
#include "operands.h"

/* "Unified Buffer: 32 bytes" (asc-devkit, C-API, 通用说明和约束, 通用地址对齐约束). */
void core_aligned(const char *name, const void *at, uint32_t bytes) {
  if ((uintptr_t)at % bytes) core_fail("%s: an operand at %#lx is not aligned to %u bytes", name, (long)((uintptr_t)at % 512), bytes);
}

/* From its first byte to its last, all repeats taken. */
static void extent(const vector *v, const operand *o, const char **from, const char **to) {
  uint32_t lanes = BLOCK / o->lane_bytes, blocks = (v->mask.lanes + lanes - 1) / lanes;
  *from = o->at;
  *to = o->at + ((v->mask.repeats - 1) * o->repeat_stride + (blocks - 1) * o->block_stride + 1) * BLOCK;
}

static bool in_step(const operand *a, const operand *b, uint64_t repeats) {
  return a->at == b->at && a->lane_bytes == b->lane_bytes && a->block_stride == b->block_stride && a->block_stride &&
         (repeats <= 1 || (a->repeat_stride == b->repeat_stride && a->repeat_stride >= 8 * a->block_stride));
}

void vector_start(vector *v, uint64_t repeats, uint32_t lanes) {
  core_begin(v->name, PIPE_V);
  v->mask = core_mask(repeats, lanes);
  core_aligned(v->name, v->to.at, BLOCK);
  for (int i = 0; i < v->sources; i++) core_aligned(v->name, v->from[i].at, BLOCK);
  if (v->mask.repeats) {
    const char *from, *to, *first, *last;
    extent(v, &v->to, &from, &to);
    for (int i = 0; i < v->sources; i++) {
      extent(v, &v->from[i], &first, &last);
      if (first < to && from < last && !in_step(&v->to, &v->from[i], v->mask.repeats)) v->shares = true;
    }
  }
  core_did(DID_VECTOR, v->mask.repeats, 0, 0, 0, 0);
}

void vector_runs(vector *v, uint64_t repeat) {
  v->runs = 0;
  if (v->mask.counts) {
    uint32_t lanes = core_lanes(&v->mask, repeat);
    if (lanes) v->run[v->runs].first = 0, v->run[v->runs++].lanes = lanes;
    return;
  }
  for (uint32_t lane = 0; lane < v->mask.lanes;) {
    uint32_t first = lane;
    while (lane < v->mask.lanes && core_lane(&v->mask, repeat, lane)) lane++;
    if (lane > first) v->run[v->runs].first = first, v->run[v->runs++].lanes = lane - first;
    else lane++;
  }
}

/* Part of a run that lies in one piece: where, and how many bytes; the lane after it in *lane. */
static char *piece(const operand *o, uint64_t repeat, uint32_t *lane, uint32_t end, uint32_t *bytes) {
  uint32_t in_block = BLOCK / o->lane_bytes, block = *lane / in_block;
  char *at = o->at + (repeat * o->repeat_stride + (uint64_t)block * o->block_stride) * BLOCK + *lane % in_block * o->lane_bytes;
  uint32_t stop = o->block_stride == 1 ? end : (block + 1) * in_block;
  if (stop > end) stop = end;
  *bytes = (stop - *lane) * o->lane_bytes;
  *lane = stop;
  return at;
}

/* Lanes of a piece that are made of bytes that nobody wrote. */
static void lose(vector *v, const char *at, uint32_t bytes, uint32_t lane_bytes, uint32_t lane) {
  for (uint32_t i = 0; i < bytes; i += lane_bytes, lane++)
    if (!core_known(at + i, lane_bytes)) v->lost[lane] = v->loses = true;
}

void vector_read(const operand *from, vector *v, uint64_t repeat, void *into) {
  for (int i = 0; i < v->runs; i++)
    for (uint32_t lane = v->run[i].first, end = lane + v->run[i].lanes, first = lane, bytes; lane < end; first = lane) {
      char *values = (char *)into + lane * from->lane_bytes, *at = piece(from, repeat, &lane, end, &bytes);
      memcpy(values, core_peek(at, bytes), bytes);
      if (!core_known(at, bytes)) lose(v, at, bytes, from->lane_bytes, first);
    }
}

void vector_write(const vector *v, uint64_t repeat, const void *values) {
  const operand *to = &v->to;
  if (!to->block_stride && v->runs && (v->run[v->runs - 1].first + v->run[v->runs - 1].lanes) * to->lane_bytes > BLOCK)
    core_fail("%s writes several blocks with a stride of 0: not defined", v->name);
  for (int i = 0; i < v->runs; i++)
    for (uint32_t lane = v->run[i].first, end = lane + v->run[i].lanes, first = lane, bytes; lane < end; first = lane) {
      const char *from = (const char *)values + lane * to->lane_bytes;
      char *at = piece(to, repeat, &lane, end, &bytes);
      memcpy(core_write(at, bytes), from, bytes);
      for (uint32_t j = first; v->loses && j < lane; j++)
        if (v->lost[j]) core_forget(at + (j - first) * to->lane_bytes, to->lane_bytes);
    }
}

/* Blocks that the current instruction has written, by its number here. */
static uint32_t stepped[UB_BYTES / BLOCK], instruction;

static uint32_t blocks_of(const vector *v, const operand *o, uint64_t repeat, long *found) {
  uint32_t count = 0, in_block = BLOCK / o->lane_bytes;
  for (int i = 0; i < v->runs; i++)
    for (uint32_t block = v->run[i].first / in_block; block <= (v->run[i].first + v->run[i].lanes - 1u) / in_block; block++) {
      long at = (o->at - (char *)core_buffer()) / BLOCK + repeat * o->repeat_stride + (uint64_t)block * o->block_stride;
      if (at < 0 || at >= UB_BYTES / BLOCK) continue; /* core_read or core_write refuses it */
      if (!count || found[count - 1] != at) found[count++] = at;
    }
  return count;
}

/* "In one iteration source and destination overlap entirely or not at all. An iteration may not read what an earlier one
 * wrote; Add, Sub, Mul, Max and Min of half, int32 and float may, through the second source, where its repeat stride or
 * the destination's is 0." (asc-devkit, C-API, 通用说明和约束, 通用地址重叠约束) What is against that has no certain result. */
void vector_steps_on(const vector *v, uint64_t repeat) {
  long to[RUNS * 2], from[RUNS * 2];
  if (!repeat) instruction++;
  uint32_t count = blocks_of(v, &v->to, repeat, to);
  for (int s = 0; s < v->sources; s++) {
    const operand *source = &v->from[s];
    uint32_t read = blocks_of(v, source, repeat, from), common = 0;
    bool may = v->accumulates && s == 1 && (!source->repeat_stride || !v->to.repeat_stride);
    for (uint32_t i = 0; i < read; i++) {
      if (!may && repeat && stepped[from[i]] == instruction)
        core_fail("%s reads in repeat %lu what it wrote in an earlier one (block %ld): not defined", v->name, (long)repeat, from[i]);
      for (uint32_t j = 0; j < count; j++) common += from[i] == to[j];
    }
    bool same = count == read && !memcmp(from, to, count * sizeof *to) && source->lane_bytes == v->to.lane_bytes;
    /* Ascend's compiler lets a narrower result take its operand's place (AscendNPU-IR, PlanMemory): it trails behind. */
    same |= v->to.at == source->at && v->to.lane_bytes < source->lane_bytes;
    if (common && !same)
      core_fail("%s: source and destination overlap in part (repeat %lu): not defined", v->name, (long)repeat);
  }
  for (uint32_t j = 0; j < count; j++) stepped[to[j]] = instruction;
}
