/* The gaps between arrivals, reckoned with at the end of a stream. */
#include "clocks.h"

#include <stdlib.h>

#define U32_MAX 0xFFFFFFFFLL

/* reckon(arrivals, lag_ns, pace_ns): see `clocks.py`. */
static PyObject *reckon(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *arrivals;
    long long lag_ns, pace_ns, longest_ns = 0;
    if (!PyArg_ParseTuple(args, "O!LL", &PyList_Type, &arrivals, &lag_ns, &pace_ns)) return NULL;
    Py_ssize_t count = PyList_Size(arrivals);
    int64_t *gaps = PyMem_Malloc((size_t)(count + 1) * sizeof *gaps);
    if (!gaps) return PyErr_NoMemory();
    long long before_ns = 0, worst_ns = lag_ns;
    for (Py_ssize_t i = 0; i < count; i++) {
        long long at_ns = PyLong_AsLongLong(PyList_GetItem(arrivals, i));
        if (at_ns == -1 && PyErr_Occurred()) return PyMem_Free(gaps), NULL;
        if (i) {
            long long gap_ns = at_ns - before_ns;
            gaps[i - 1] = gap_ns;
            if (gap_ns > longest_ns) longest_ns = gap_ns;
            lag_ns += gap_ns - pace_ns;
            if (lag_ns > worst_ns) worst_ns = lag_ns;
        }
        before_ns = at_ns;
    }
    Py_ssize_t bytes = count > 1 ? (count - 1) * (Py_ssize_t)sizeof *gaps : 0;
    PyObject *found = Py_BuildValue("(y#LLL)", (char *)gaps, bytes, longest_ns, worst_ns, lag_ns);
    PyMem_Free(gaps);
    return found;
}

/* in_us(gaps): little-endian u32 microseconds of the nanoseconds in an array of int64. */
static PyObject *in_us(PyObject *module, PyObject *array) {
    (void)module;
    Py_buffer view;
    if (PyObject_GetBuffer(array, &view, PyBUF_SIMPLE) < 0) return NULL;
    Py_ssize_t count = view.len / (Py_ssize_t)sizeof(int64_t);
    PyObject *words = PyBytes_FromStringAndSize(NULL, count * 4);
    unsigned char *at = words ? (unsigned char *)PyBytes_AsString(words) : NULL;
    for (Py_ssize_t i = 0; words && i < count; i++) {
        int64_t us = ((const int64_t *)view.buf)[i] / 1000;
        uint32_t word = us < 0 ? 0 : us > U32_MAX ? (uint32_t)U32_MAX : (uint32_t)us;
        for (int byte = 0; byte < 4; byte++) *at++ = (unsigned char)(word >> (8 * byte));
    }
    PyBuffer_Release(&view);
    return words;
}

static PyMethodDef functions[] = {
    {"reckon", reckon, METH_VARARGS, NULL},
    {"in_us", in_us, METH_O, NULL},
    {0},
};

int add_reckoning(PyObject *module) { return PyModule_AddFunctions(module, functions); }
