/* A libnvidia-ml.so.1 with two GPUs for tests; each switch is an environment variable.
   LOST_AFTER=n: the second is lost after n reads; COMES_BACK=1: until the library is opened anew; DIVIDED=file: the
   first is divided into two MIG devices while the file is there; UTIL=file: how busy both are, in per cent. Compiled with -DOLD_DRIVER it lacks what drivers of before 2018 lack. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, GPU_LOST = 15 };
typedef struct { const char *uuid; int slice; unsigned long long reads, millijoules; } device;
typedef struct { unsigned int gpu, memory; } utilization;
typedef struct { unsigned long long total, free, used; } memory;
typedef struct { unsigned int pid; unsigned long long bytes; unsigned int instance, compute; } process;

static device devices[4] = {{"GPU-first"}, {"GPU-second"}, {"MIG-a", 1}, {"MIG-b", 1}};
static int opened;

static int divided(device *gpu) { return gpu == &devices[0] && getenv("DIVIDED") && !access(getenv("DIVIDED"), F_OK); }

static int state(device *gpu) {
    const char *limit = getenv("LOST_AFTER");
    if (gpu != &devices[1] || !limit) return OK;
    if (getenv("COMES_BACK") && opened > 1) return OK;
    return ++gpu->reads > (unsigned long long)atoll(limit) ? GPU_LOST : OK;
}

/* What the driver refuses for a part of a GPU. */
static int whole(device *gpu) { return gpu->slice ? NOT_SUPPORTED : state(gpu); }

int nvmlInitWithFlags(unsigned int flags) { (void)flags; ++opened; return OK; }
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int code) {
    return code == GPU_LOST ? "GPU is lost" : code == NOT_SUPPORTED ? "Not Supported" : "some error";
}
int nvmlSystemGetDriverVersion(char *text, unsigned int length) { strncpy(text, "580.1", length); return OK; }
int nvmlDeviceGetCount_v2(unsigned int *count) { *count = 2; return OK; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, device **gpu) { *gpu = &devices[index]; return OK; }
int nvmlDeviceGetUUID(device *gpu, char *text, unsigned int length) { strncpy(text, gpu->uuid, length); return OK; }
int nvmlDeviceGetName(device *gpu, char *text, unsigned int length) {
    strncpy(text, gpu->slice ? "Stub 80GB MIG 3g.40gb" : "Stub 80GB", length);
    return OK;
}

static unsigned int busy(void) {
    unsigned int percent = 75;
    FILE *file = getenv("UTIL") ? fopen(getenv("UTIL"), "r") : NULL;
    if (!file) return percent;
    if (fscanf(file, "%u", &percent) != 1) percent = 75;
    fclose(file);
    return percent;
}

int nvmlDeviceGetUtilizationRates(device *gpu, utilization *found) {
    found->gpu = busy();
    found->memory = 40;
    return divided(gpu) ? NOT_SUPPORTED : whole(gpu);
}

int nvmlDeviceGetMemoryInfo(device *gpu, memory *found) {
    found->total = (gpu->slice ? 40ULL : 80ULL) << 30;
    found->used = 20ULL << 30;
    found->free = found->total - found->used;
    return state(gpu);
}

/* A part of a GPU has no clock of its own, which the driver may also call a wrong argument. */
int nvmlDeviceGetClockInfo(device *gpu, int domain, unsigned int *mhz) {
    *mhz = domain == 2 ? 2600 : 1980;
    return gpu->slice ? INVALID_ARGUMENT : state(gpu);
}

int nvmlDeviceGetPowerUsage(device *gpu, unsigned int *milliwatts) { *milliwatts = 350500; return whole(gpu); }
int nvmlDeviceGetEnforcedPowerLimit(device *gpu, unsigned int *milliwatts) { *milliwatts = 700000; return whole(gpu); }

/* The first GPU has no thermometer. */
int nvmlDeviceGetTemperature(device *gpu, int sensor, unsigned int *celsius) {
    (void)sensor;
    *celsius = 61;
    return gpu == &devices[0] ? NOT_SUPPORTED : whole(gpu);
}

/* What a test lets a GPU spend. */
void stub_spend(unsigned int index, unsigned long long millijoules) { devices[index].millijoules += millijoules; }

#ifdef OLD_DRIVER
int nvmlDeviceGetCurrentClocksThrottleReasons(device *gpu, unsigned long long *bits) { *bits = 0x44; return state(gpu); }
#else
int nvmlDeviceGetCurrentClocksEventReasons(device *gpu, unsigned long long *bits) { *bits = 0x44; return whole(gpu); }

int nvmlDeviceGetTotalEnergyConsumption(device *gpu, unsigned long long *millijoules) {
    *millijoules = 5000000 + gpu->millijoules;
    return whole(gpu);
}

/* One process of this id holds 18 GiB; a second holds what the driver cannot tell. */
int nvmlDeviceGetComputeRunningProcesses_v3(device *gpu, unsigned int *count, process *found) {
    unsigned int room = *count;
    int code = state(gpu);
    if (code) return code;
    *count = 2;
    if (room < 2) return INSUFFICIENT_SIZE;
    found[0] = (process){(unsigned int)getpid(), 18ULL << 30, 0, 0};
    found[1] = (process){4000000, ~0ULL, 0, 0};
    return OK;
}

int nvmlDeviceGetMigMode(device *gpu, unsigned int *current, unsigned int *pending) {
    *current = *pending = divided(gpu) ? 1 : 0;
    return gpu == &devices[0] ? OK : NOT_SUPPORTED;
}

int nvmlDeviceGetMaxMigDeviceCount(device *gpu, unsigned int *count) { (void)gpu; *count = 7; return OK; }

/* Places may be empty: here the second of the seven is. */
int nvmlDeviceGetMigDeviceHandleByIndex(device *gpu, unsigned int index, device **slice) {
    (void)gpu;
    if (index != 0 && index != 2) return NOT_FOUND;
    *slice = &devices[index ? 3 : 2];
    return OK;
}
#endif
