/* A libnvidia-ml.so.1 with two GPUs for tests: the first lacks some counters, the second is lost after LOST_AFTER reads. */
#include <stdlib.h>
#include <string.h>

enum { OK = 0, NOT_SUPPORTED = 3, GPU_LOST = 15 };
typedef struct { int index; unsigned long long reads; } device;
typedef struct { unsigned int gpu, memory; } utilization;
typedef struct { unsigned long long total, free, used; } memory;

static device devices[2] = {{0, 0}, {1, 0}};

static int state(device *gpu) {
    const char *limit = getenv("LOST_AFTER");
    if (gpu->index == 1 && limit && ++gpu->reads > (unsigned long long)atoll(limit)) return GPU_LOST;
    return OK;
}

int nvmlInitWithFlags(unsigned int flags) { (void)flags; return OK; }
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int code) { return code == GPU_LOST ? "GPU is lost" : "some error"; }
int nvmlDeviceGetCount_v2(unsigned int *count) { *count = 2; return OK; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, device **gpu) { *gpu = &devices[index]; return OK; }

int nvmlDeviceGetUUID(device *gpu, char *text, unsigned int length) {
    strncpy(text, gpu->index ? "GPU-second" : "GPU-first", length);
    return OK;
}

int nvmlDeviceGetUtilizationRates(device *gpu, utilization *found) {
    found->gpu = 75;
    found->memory = 40;
    return state(gpu);
}

int nvmlDeviceGetMemoryInfo(device *gpu, memory *found) {
    found->total = 80ULL << 30;
    found->used = 20ULL << 30;
    found->free = found->total - found->used;
    return state(gpu);
}

int nvmlDeviceGetClockInfo(device *gpu, int domain, unsigned int *mhz) {
    *mhz = domain == 2 ? 2600 : 1980;
    return state(gpu);
}

int nvmlDeviceGetPowerUsage(device *gpu, unsigned int *milliwatts) { *milliwatts = 350500; return state(gpu); }
int nvmlDeviceGetEnforcedPowerLimit(device *gpu, unsigned int *milliwatts) { *milliwatts = 700000; return state(gpu); }

/* The first GPU has no thermometer. */
int nvmlDeviceGetTemperature(device *gpu, int sensor, unsigned int *celsius) {
    (void)sensor;
    *celsius = 61;
    return gpu->index == 0 ? NOT_SUPPORTED : state(gpu);
}

/* An old driver: only the old name of the throttle reasons; nvmlDeviceGetTotalEnergyConsumption is missing altogether. */
int nvmlDeviceGetCurrentClocksThrottleReasons(device *gpu, unsigned long long *bits) { *bits = 0x44; return state(gpu); }
