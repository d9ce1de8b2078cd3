/* A stand-in for the NVIDIA driver's libcuda.so.1: it says it is a card, keeps device memory in host memory, counts what it
 * is asked to do, checks every launch against the card's limits, and computes nothing. With it a build with the feature
 * `cuda` opens `--device cuda`, compiles its kernels, trains and reads back on a machine without a GPU; the numbers mean
 * nothing, the counts are those of a card.
 *
 *     cc -O2 -shared -fPIC -o libcuda.so.1 stand_in.c -lpthread && ln -sf libcuda.so.1 libcuda.so
 *
 * Environment: STAND_IN_SM (80, 89, 90, 100, 120; 90), STAND_IN_MEMORY (bytes, 80e9), STAND_IN_DRIVER (13000),
 * STAND_IN_REPORT (a JSON file written at the end), STAND_IN_PTX (a folder for every module that is loaded), STAND_IN_SPREAD
 * (1: what is read is no zeros).
 *
 * Time on the device is virtual, five microseconds a launch, so that tuning decides alike every time. A read gives zeros;
 * one of four bytes gives 8.0f, since the question with which the program opens a device, the sum of eight ones, must be
 * answered. With STAND_IN_SPREAD it gives numbers of 0.5 to 1, in f32 and in bf16, so that clients who choose what to train by
 * what they read do not all choose the first. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

typedef int Result;
typedef unsigned long long Pointer;
enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_DEVICE = 101, NOT_SUPPORTED = 801 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
#define LOCKED(body) do { pthread_mutex_lock(&lock); body; pthread_mutex_unlock(&lock); } while (0)

static struct {
  long long launches, streams, streams_used, waits, events, syncs, modules, bad;
  long long to_device, to_device_bytes, to_host, to_host_bytes, on_device, fills;
  long long allocations, frees, live, peak, refused, most_shared;
} count;
static double clock_ms; /* virtual */

/* Launches by kernel. */
enum { KERNELS = 8192 };
typedef struct { char name[256]; long long launches; unsigned shared; } Kernel;
static Kernel kernels[KERNELS];
static int kernels_known;

static long setting(const char *name, long otherwise) {
  const char *text = getenv(name);
  return text && *text ? (long)atof(text) : otherwise;
}
static int sm(void) { return (int)setting("STAND_IN_SM", 90); }
static long long memory(void) { return setting("STAND_IN_MEMORY", 80000000000L); }
static long shared_limit(void) {
  switch (sm()) {
    case 80: return 166912;
    case 89: case 120: return 101376;
    default: return 232448;
  }
}

static void report(void) {
  const char *path = getenv("STAND_IN_REPORT");
  FILE *file = path && *path ? fopen(path, "w") : NULL;
  if (!file) return;
  fprintf(file,
          "{\"launches\": %lld, \"streams\": %lld, \"streams_used\": %lld, \"stream_waits\": %lld, \"events\": %lld, \"syncs\": %lld, \"modules\": %lld,\n"
          " \"bad_launches\": %lld, \"to_device\": %lld, \"to_device_bytes\": %lld, \"to_host\": %lld, \"to_host_bytes\": %lld,\n"
          " \"on_device\": %lld, \"fills\": %lld, \"allocations\": %lld, \"frees\": %lld, \"live\": %lld, \"peak\": %lld,\n"
          " \"refused\": %lld, \"most_shared\": %lld, \"kernels\": {",
          count.launches, count.streams, count.streams_used, count.waits, count.events, count.syncs, count.modules, count.bad, count.to_device,
          count.to_device_bytes, count.to_host, count.to_host_bytes, count.on_device, count.fills, count.allocations,
          count.frees, count.live, count.peak, count.refused, count.most_shared);
  const char *between = "";
  for (int i = 0; i < kernels_known; i++) {
    if (!kernels[i].launches) continue;
    fprintf(file, "%s\n  \"%s\": %lld", between, kernels[i].name, kernels[i].launches);
    between = ",";
  }
  fprintf(file, "}}\n");
  fclose(file);
}

Result cuInit(unsigned flags) {
  static int asked;
  (void)flags;
  LOCKED(if (!asked++) atexit(report));
  return OK;
}
Result cuDriverGetVersion(int *version) { *version = (int)setting("STAND_IN_DRIVER", 13000); return OK; }
Result cuDeviceGetCount(int *n) { *n = 1; return OK; }
Result cuDeviceGet(int *device, int ordinal) { *device = 0; return ordinal == 0 ? OK : INVALID_DEVICE; }
Result cuDeviceGetName(char *name, int room, int device) { snprintf(name, (size_t)room, "stand-in sm_%d", sm()); (void)device; return OK; }
Result cuDeviceGetUuid(void *uuid, int device) { memset(uuid, 1, 16); (void)device; return OK; }
Result cuDeviceGetUuid_v2(void *uuid, int device) { return cuDeviceGetUuid(uuid, device); }
Result cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = (size_t)memory(); (void)device; return OK; }
Result cuDeviceGetPCIBusId(char *text, int room, int device) { snprintf(text, (size_t)room, "0000:01:00.0"); (void)device; return OK; }
Result cuDeviceGetAttribute(int *value, int attribute, int device) {
  (void)device;
  switch (attribute) {
    case 1: case 2: case 3: *value = 1024; break;          /* block: threads, x, y */
    case 4: *value = 64; break;                            /* block: z */
    case 5: *value = 2147483647; break;                    /* grid: x */
    case 6: case 7: *value = 65535; break;                 /* grid: y, z */
    case 8: *value = 49152; break;                         /* shared memory a block without asking */
    case 9: case 12: case 82: *value = 65536; break;       /* constant memory; registers a block, a multiprocessor */
    case 10: *value = 32; break;                           /* warp */
    case 11: *value = 2147483647; break;                   /* pitch */
    case 13: *value = 1700000; break;                      /* kHz */
    case 14: *value = 512; break;                          /* alignment */
    case 16: *value = sm() >= 90 ? 132 : 108; break;       /* multiprocessors */
    case 36: *value = 2600000; break;                      /* memory, kHz */
    case 37: *value = 5120; break;                         /* memory bus, bits */
    case 38: *value = 50 << 20; break;                     /* second cache */
    case 39: *value = sm() == 89 || sm() == 120 ? 1536 : 2048; break; /* threads a multiprocessor */
    case 75: *value = sm() / 10; break;
    case 76: *value = sm() % 10; break;
    case 81: *value = (int)shared_limit() + 1024; break;   /* shared memory a multiprocessor */
    case 97: *value = (int)shared_limit(); break;          /* shared memory a block that asks */
    case 106: *value = 32; break;                          /* blocks a multiprocessor */
    default: *value = 1;                                   /* what remains are abilities */
  }
  return OK;
}

static int context;
Result cuDevicePrimaryCtxRetain(void **c, int device) { *c = &context; (void)device; return OK; }
Result cuDevicePrimaryCtxRelease_v2(int device) { (void)device; return OK; }
Result cuCtxSetCurrent(void *c) { (void)c; return OK; }
Result cuCtxGetCurrent(void **c) { *c = &context; return OK; }
Result cuCtxPushCurrent_v2(void *c) { (void)c; return OK; }
Result cuCtxPopCurrent_v2(void **c) { *c = &context; return OK; }
Result cuCtxSynchronize(void) { LOCKED(count.syncs++); return OK; }
Result cuCtxGetStreamPriorityRange(int *least, int *greatest) { *least = 0; *greatest = -5; return OK; }

/* Streams are numbers; those that were launched on are marked. */
enum { STREAMS = 4096 };
static char used[STREAMS];
Result cuStreamCreate(void **stream, unsigned flags) {
  (void)flags;
  LOCKED(*stream = (void *)(uintptr_t)++count.streams);
  return OK;
}
Result cuStreamCreateWithPriority(void **stream, unsigned flags, int priority) { (void)priority; return cuStreamCreate(stream, flags); }
Result cuStreamDestroy_v2(void *stream) { (void)stream; return OK; }
Result cuStreamQuery(void *stream) { (void)stream; return OK; }
Result cuStreamSynchronize(void *stream) { (void)stream; LOCKED(count.syncs++); return OK; }
Result cuStreamWaitEvent(void *stream, void *event, unsigned flags) { (void)stream; (void)event; (void)flags; LOCKED(count.waits++); return OK; }
Result cuStreamIsCapturing(void *stream, int *capturing) { (void)stream; *capturing = 0; return OK; }

Result cuEventCreate(void **event, unsigned flags) { (void)flags; *event = calloc(1, sizeof(double)); return *event ? OK : OUT_OF_MEMORY; }
Result cuEventRecord(void *event, void *stream) { (void)stream; LOCKED(count.events++; *(double *)event = clock_ms); return OK; }
Result cuEventSynchronize(void *event) { (void)event; return OK; }
Result cuEventQuery(void *event) { (void)event; return OK; }
Result cuEventElapsedTime(float *ms, void *from, void *to) {
  double passed = *(double *)to - *(double *)from;
  *ms = passed < 0.002 ? 0.002f : (float)passed;
  return OK;
}
Result cuEventElapsedTime_v2(float *ms, void *from, void *to) { return cuEventElapsedTime(ms, from, to); }
Result cuEventDestroy_v2(void *event) { free(event); return OK; }

enum { BLOCKS = 65536 };
static struct { Pointer at; size_t bytes; } blocks[BLOCKS];
static int blocks_known;

static Result take(Pointer *at, size_t wanted) {
  size_t bytes = (wanted + 4095) / 4096 * 4096 + (wanted ? 0 : 4096);
  Result result = OUT_OF_MEMORY;
  pthread_mutex_lock(&lock);
  if (count.live + (long long)bytes <= memory() && blocks_known < BLOCKS) {
    void *room = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (room != MAP_FAILED) {
      *at = (Pointer)(uintptr_t)room;
      blocks[blocks_known].at = *at;
      blocks[blocks_known++].bytes = bytes;
      count.allocations++;
      count.live += (long long)bytes;
      if (count.live > count.peak) count.peak = count.live;
      result = OK;
    }
  }
  if (result != OK) count.refused++;
  pthread_mutex_unlock(&lock);
  return result;
}
static Result give(Pointer at) {
  Result result = INVALID_VALUE;
  pthread_mutex_lock(&lock);
  for (int i = 0; i < blocks_known; i++) {
    if (blocks[i].at != at) continue;
    munmap((void *)(uintptr_t)at, blocks[i].bytes);
    count.live -= (long long)blocks[i].bytes;
    count.frees++;
    blocks[i] = blocks[--blocks_known];
    result = OK;
    break;
  }
  pthread_mutex_unlock(&lock);
  return result;
}
Result cuMemAlloc_v2(Pointer *at, size_t bytes) { return take(at, bytes); }
Result cuMemAllocAsync(Pointer *at, size_t bytes, void *stream) { (void)stream; return take(at, bytes); }
Result cuMemFree_v2(Pointer at) { return give(at); }
Result cuMemFreeAsync(Pointer at, void *stream) { (void)stream; return give(at); }
Result cuMemGetInfo_v2(size_t *available, size_t *total) { *total = (size_t)memory(); *available = *total - (size_t)count.live; return OK; }
Result cuMemAllocHost_v2(void **at, size_t bytes) { *at = malloc(bytes ? bytes : 1); return *at ? OK : OUT_OF_MEMORY; }
Result cuMemHostAlloc(void **at, size_t bytes, unsigned flags) { (void)flags; return cuMemAllocHost_v2(at, bytes); }
Result cuMemFreeHost(void *at) { free(at); return OK; }

/* What is read: a row of a read of so many bytes in all. */
static void answer(void *host, size_t bytes, size_t all) {
  const float eight = 8.0f;
  static uint32_t mixed = 1;
  memset(host, 0, bytes);
  const int spread = (int)setting("STAND_IN_SPREAD", 0);
  for (size_t i = 0; spread && i + 3 < bytes; i += 4) {
    mixed = mixed * 1664525u + 1013904223u;
    const uint32_t number = 0x3f000000u | (mixed >> 25 << 16);
    memcpy((char *)host + i, &number, sizeof number);
  }
  if (all == sizeof eight) memcpy(host, &eight, sizeof eight);
}
static void answered(void *host, size_t bytes) {
  answer(host, bytes, bytes);
  LOCKED(count.to_host++; count.to_host_bytes += (long long)bytes);
}
static void received(size_t bytes) { LOCKED(count.to_device++; count.to_device_bytes += (long long)bytes); }
Result cuMemcpyHtoD_v2(Pointer to, const void *from, size_t bytes) { (void)to; (void)from; received(bytes); return OK; }
Result cuMemcpyHtoDAsync_v2(Pointer to, const void *from, size_t bytes, void *stream) { (void)stream; return cuMemcpyHtoD_v2(to, from, bytes); }
Result cuMemcpyDtoH_v2(void *to, Pointer from, size_t bytes) { (void)from; answered(to, bytes); return OK; }
Result cuMemcpyDtoHAsync_v2(void *to, Pointer from, size_t bytes, void *stream) { (void)stream; return cuMemcpyDtoH_v2(to, from, bytes); }
Result cuMemcpyDtoDAsync_v2(Pointer to, Pointer from, size_t bytes, void *stream) { (void)to; (void)from; (void)bytes; (void)stream; LOCKED(count.on_device++); return OK; }
Result cuMemsetD8Async(Pointer at, unsigned char value, size_t bytes, void *stream) { (void)at; (void)value; (void)bytes; (void)stream; LOCKED(count.fills++); return OK; }

/* CUDA_MEMCPY2D, by the driver's layout. */
typedef struct {
  size_t from_x, from_y; int from_kind; const void *from_host; Pointer from_device; void *from_array; size_t from_pitch;
  size_t to_x, to_y; int to_kind; void *to_host; Pointer to_device; void *to_array; size_t to_pitch;
  size_t width, height;
} Copy2d;
Result cuMemcpy2DAsync_v2(const Copy2d *copy, void *stream) {
  enum { HOST = 1 };
  (void)stream;
  size_t bytes = copy->width * copy->height;
  if (copy->to_kind != HOST) {
    if (copy->from_kind == HOST) received(bytes);
    else LOCKED(count.on_device++);
    return OK;
  }
  char *to = (char *)copy->to_host + copy->to_y * copy->to_pitch + copy->to_x;
  for (size_t y = 0; y < copy->height; y++) answer(to + y * copy->to_pitch, copy->width, bytes);
  LOCKED(count.to_host++; count.to_host_bytes += (long long)bytes);
  return OK;
}

/* A module and its one function are the same to us. */
Result cuModuleLoadData(void **module, const void *image) {
  int n;
  LOCKED(n = (int)++count.modules);
  const char *folder = getenv("STAND_IN_PTX");
  if (folder && *folder) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%06d-%05d.ptx", folder, (int)setting("STAND_IN_RUN", 0), n);
    FILE *file = fopen(path, "w");
    if (file) {
      fputs(image, file);
      fclose(file);
    }
  }
  *module = calloc(1, 1);
  return *module ? OK : OUT_OF_MEMORY;
}
Result cuModuleLoadDataEx(void **module, const void *image, unsigned n, void *options, void *values) { (void)n; (void)options; (void)values; return cuModuleLoadData(module, image); }
Result cuModuleUnload(void *module) { (void)module; return OK; }
Result cuModuleGetFunction(void **function, void *module, const char *name) {
  (void)module;
  Result result = OUT_OF_MEMORY;
  pthread_mutex_lock(&lock);
  if (kernels_known < KERNELS) {
    Kernel *kernel = &kernels[kernels_known++];
    snprintf(kernel->name, sizeof kernel->name, "%s", name);
    *function = kernel;
    result = OK;
  }
  pthread_mutex_unlock(&lock);
  return result;
}
Result cuFuncSetAttribute(void *function, int attribute, int value) {
  if (attribute == 8) ((Kernel *)function)->shared = (unsigned)value;
  return attribute == 8 && value > shared_limit() ? INVALID_VALUE : OK;
}
Result cuFuncGetAttribute(int *value, int attribute, void *function) { (void)attribute; (void)function; *value = 0; return OK; }
Result cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                      unsigned shared, void *stream, void **arguments, void **extra) {
  (void)arguments; (void)extra;
  Kernel *kernel = function;
  size_t on = (uintptr_t)stream % STREAMS;
  int bad = !gx || !gy || !gz || gx > 2147483647u || gy > 65535 || gz > 65535 || !bx || !by || !bz || bx > 1024 || by > 1024 ||
            bz > 64 || (unsigned long long)bx * by * bz > 1024 || shared > shared_limit() ||
            (shared > 49152 && shared > kernel->shared);
  LOCKED(if (shared > count.most_shared) count.most_shared = shared);
  LOCKED(count.launches++; kernel->launches++; count.bad += bad; clock_ms += 0.005; count.streams_used += !used[on]; used[on] = 1);
  if (bad)
    fprintf(stderr, "stand-in: refused launch of %s: grid %u %u %u, block %u %u %u, shared memory %u\n", kernel->name, gx, gy, gz,
            bx, by, bz, shared);
  return bad ? INVALID_VALUE : OK;
}
Result cuTensorMapEncodeTiled(void *map, int type, unsigned rank, void *at, const uint64_t *sizes, const uint64_t *strides,
                              const uint32_t *box, const uint32_t *steps, int interleave, int swizzle, int promotion, int fill) {
  (void)type; (void)sizes; (void)steps; (void)interleave; (void)swizzle; (void)promotion; (void)fill;
  int bad = ((uintptr_t)at & 15) != 0;
  for (unsigned i = 0; i + 1 < rank; i++) bad |= (strides[i] & 15) != 0;
  for (unsigned i = 0; i < rank; i++) bad |= !box[i] || box[i] > 256;
  memset(map, 0, 128);
  LOCKED(count.bad += bad);
  return bad ? INVALID_VALUE : OK;
}
Result cuTensorMapEncodeIm2col(void) { return NOT_SUPPORTED; }
Result cuTensorMapEncodeIm2colWide(void) { return NOT_SUPPORTED; }

Result cuGetErrorName(Result error, const char **name) { *name = error == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR"; return OK; }
Result cuGetErrorString(Result error, const char **text) { *text = error == OUT_OF_MEMORY ? "out of memory" : "the stand-in refused"; return OK; }

/* NVRTC asks the driver for what is in no header, and takes no for an answer. */
Result cuGetExportTable(const void **table, const void *id) { (void)id; *table = NULL; return NOT_SUPPORTED; }

/* Recording of launches is not offered. */
Result cuStreamBeginCapture_v2(void *stream, int mode) { (void)stream; (void)mode; return NOT_SUPPORTED; }
Result cuStreamEndCapture(void *stream, void **graph) { (void)stream; (void)graph; return NOT_SUPPORTED; }
Result cuGraphDestroy(void *graph) { (void)graph; return OK; }
Result cuGraphExecDestroy(void *graph) { (void)graph; return OK; }
Result cuGraphGetNodes(void *graph, void *nodes, size_t *n) { (void)graph; (void)nodes; *n = 0; return OK; }
Result cuGraphNodeGetType(void *node, int *type) { (void)node; *type = 0; return OK; }
Result cuGraphInstantiateWithFlags(void **made, void *graph, unsigned long long flags) { (void)made; (void)graph; (void)flags; return NOT_SUPPORTED; }
Result cuGraphUpload(void *graph, void *stream) { (void)graph; (void)stream; return NOT_SUPPORTED; }
Result cuGraphLaunch(void *graph, void *stream) { (void)graph; (void)stream; return NOT_SUPPORTED; }

/* NVRTC, of a build with the feature `cuda-cpp`: what comes out is what went in, its options as comments before it, and is
 * loaded as if it were PTX. `check.py` compiles of it what it wants to. */
typedef struct { char *source, *text; } Program;
Result nvrtcVersion(int *major, int *minor) {
  int version;
  cuDriverGetVersion(&version);
  *major = version / 1000;
  *minor = version % 1000 / 10;
  return OK;
}
Result nvrtcCreateProgram(Program **made, const char *source, const char *name, int n, const char *const *headers, const char *const *names) {
  (void)name; (void)n; (void)headers; (void)names;
  *made = calloc(1, sizeof **made);
  if (!*made || !((*made)->source = strdup(source))) return 1;
  return OK;
}
Result nvrtcCompileProgram(Program *program, int n, const char *const *options) {
  size_t room = strlen(program->source) + 1;
  for (int i = 0; i < n; i++) room += strlen(options[i]) + 3;
  char *at = program->text = malloc(room);
  if (!at) return 1;
  for (int i = 0; i < n; i++) at += sprintf(at, "//%s\n", options[i]);
  strcpy(at, program->source);
  return OK;
}
Result nvrtcGetPTXSize(Program *program, size_t *bytes) { *bytes = strlen(program->text) + 1; return OK; }
Result nvrtcGetPTX(Program *program, char *text) { strcpy(text, program->text); return OK; }
Result nvrtcGetProgramLogSize(Program *program, size_t *bytes) { (void)program; *bytes = 1; return OK; }
Result nvrtcGetProgramLog(Program *program, char *text) { (void)program; *text = 0; return OK; }
Result nvrtcDestroyProgram(Program **program) { free((*program)->source); free((*program)->text); free(*program); *program = NULL; return OK; }
