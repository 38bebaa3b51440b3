/* What a chunk of a stream costs: two clocks and a look at its text, without a frame of Python around them.
 *
 * `clocks.py` says what each part is for and does the same in Python, where no compiler was. Every object is one that
 * the garbage collector sees, and every error of the host's passes through as it is. */
#include "clocks.h"

#include <time.h>

#define LAYOUT 2 /* of the types: clocks.py takes no other, such as that of an extension that was not built anew */
#define FIRST_ROOM 64

PyTypeObject *clocks_type;
static PyObject *perf_counter_ns; /* time.perf_counter_ns: that clock is read without a call of Python */
static PyObject *name_fold;

int64_t read_clock(PyObject *clock) {
#ifdef __linux__
    if (clock == perf_counter_ns) { /* CPython reads this one too */
        struct timespec at;
        clock_gettime(CLOCK_MONOTONIC, &at);
        return (int64_t)at.tv_sec * 1000000000 + at.tv_nsec;
    }
#endif
    PyObject *read = PyObject_CallNoArgs(clock);
    if (!read) return -1;
    int64_t now_ns = PyLong_AsLongLong(read);
    Py_DECREF(read);
    return now_ns;
}

void give_back(PyObject *self, inquiry clear) {
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    clear(self);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

int intern_names(const char *const texts[], PyObject **names[], int count) {
    for (int i = 0; i < count; i++)
        if (!*names[i] && !(*names[i] = PyUnicode_InternFromString(texts[i]))) return -1;
    return 0;
}

static PyObject *clocks_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)args, (void)kwargs;
    return ((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
}

static int clocks_init(PyObject *object, PyObject *args, PyObject *kwargs) {
    (void)kwargs;
    clocks *self = (clocks *)object;
    PyObject *marks, *before = self->marks;
    if (!PyArg_ParseTuple(args, "nUn", &self->most, &marks, &self->most_early)) return -1;
    self->marks = Py_NewRef(marks);
    Py_XDECREF(before);
    return 0;
}

static int clocks_traverse(PyObject *object, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(((clocks *)object)->last_chunk);
    Py_VISIT(((clocks *)object)->text);
    return 0;
}

static int clocks_clear(PyObject *object) {
    Py_CLEAR(((clocks *)object)->last_chunk);
    Py_CLEAR(((clocks *)object)->text);
    return 0;
}

static void clocks_dealloc(PyObject *object) {
    clocks *self = (clocks *)object;
    moment *kept = self->kept;
    self->kept = NULL;
    self->count = self->room = 0;
    PyMem_Free(kept);
    Py_CLEAR(self->marks);
    give_back(object, clocks_clear);
}

int clocks_add(clocks *self, PyObject *chunk, int64_t arrived_ns) {
    if (self->count == self->room) {
        Py_ssize_t room = self->room ? 2 * self->room : FIRST_ROOM;
        moment *kept = PyMem_Realloc(self->kept, (size_t)room * sizeof *kept);
        if (!kept) return PyErr_NoMemory(), -1;
        self->kept = kept;
        self->room = room;
    }
    self->kept[self->count++] = (moment){arrived_ns, self->asked_ns};
    PyObject *before = self->last_chunk;
    self->last_chunk = Py_NewRef(chunk);
    Py_XDECREF(before);
    return 0;
}

int clocks_add_early(clocks *self, PyObject *text, int64_t arrived_ns) {
    if (!PyUnicode_CheckExact(text) || !self->text || !PyUnicode_CheckExact(self->text)) return 0;
    Py_ssize_t length = PyUnicode_GetLength(text), marks = PyUnicode_GetLength(self->marks);
    if (!length || self->text_chunks + 1 >= self->most_early) return 0;
    for (Py_ssize_t i = 0; i < marks; i++) {
        Py_ssize_t at = PyUnicode_FindChar(text, PyUnicode_ReadChar(self->marks, i), 0, length, 1);
        if (at != -1) return at < 0 ? -1 : 0;
    }
    PyObject *before = self->text, *longer = PyUnicode_Concat(before, text);
    if (!longer) return -1;
    self->text = longer;
    Py_DECREF(before);
    self->text_chunks++;
    self->seen_ns = arrived_ns;
    return 1;
}

static PyObject *keep(PyObject *object, PyObject *const *args, Py_ssize_t given) {
    clocks *self = (clocks *)object;
    if (given != 2) return PyErr_SetString(PyExc_TypeError, "keep takes a chunk and when it came"), NULL;
    int64_t arrived_ns = PyLong_AsLongLong(args[1]);
    if (arrived_ns == -1 && PyErr_Occurred()) return NULL;
    if (clocks_add(self, args[0], arrived_ns) < 0) return NULL;
    if (self->count > self->most) return PyObject_CallMethodObjArgs(object, name_fold, NULL);
    Py_RETURN_NONE;
}

static PyObject *arrivals(PyObject *object, void *unused) {
    (void)unused;
    const clocks *self = (clocks *)object;
    Py_ssize_t count;
    PyObject *list = NULL;
    do { /* making a list may collect garbage, which may end this very stream */
        Py_XDECREF(list);
        count = self->count;
        list = PyList_New(count);
    } while (list && count != self->count);
    for (Py_ssize_t i = 0; list && i < count; i++) {
        PyObject *at_ns = PyLong_FromLongLong(self->kept[i].arrived_ns);
        if (!at_ns || PyList_SetItem(list, i, at_ns) < 0) Py_CLEAR(list);
    }
    return list;
}

static PyObject *drain(PyObject *object, PyObject *unused) {
    (void)unused;
    clocks *self = (clocks *)object;
    PyObject *list = arrivals(object, NULL);
    if (!list) return NULL;
    long long consumer_ns = 0;
    for (Py_ssize_t i = self->reckoned; i < self->count; i++)
        consumer_ns += self->kept[i].asked_ns - self->kept[i].arrived_ns;
    if (self->count) self->kept[0] = self->kept[self->count - 1];
    self->count = self->reckoned = self->count ? 1 : 0;
    return Py_BuildValue("(NL)", list, consumer_ns);
}

static PyObject *kept(PyObject *object, void *unused) {
    (void)unused;
    return PyLong_FromSsize_t(((clocks *)object)->count);
}

static PyObject *last_kept_ns(PyObject *object, void *unused) {
    (void)unused;
    const clocks *self = (clocks *)object;
    return PyLong_FromLongLong(self->count ? self->kept[self->count - 1].arrived_ns : 0);
}

static PyMemberDef members[] = {
    {"asked_ns", T_LONGLONG, offsetof(clocks, asked_ns), 0, NULL},
    {"plain", T_BOOL, offsetof(clocks, plain), 0, NULL},
    {"early", T_BOOL, offsetof(clocks, early), 0, NULL},
    {"last_chunk", T_OBJECT, offsetof(clocks, last_chunk), 0, NULL},
    {"seen_ns", T_LONGLONG, offsetof(clocks, seen_ns), 0, NULL},
    {"text", T_OBJECT, offsetof(clocks, text), 0, NULL},
    {"text_chunks", T_PYSSIZET, offsetof(clocks, text_chunks), 0, NULL},
    {0},
};
static PyGetSetDef getset[] = {
    {"arrivals", arrivals, NULL, NULL, NULL},
    {"kept", kept, NULL, NULL, NULL},
    {"last_kept_ns", last_kept_ns, NULL, NULL, NULL},
    {0},
};
static PyMethodDef methods[] = {
    {"keep", (PyCFunction)(void (*)(void))keep, METH_FASTCALL, NULL},
    {"drain", drain, METH_NOARGS, NULL},
    {0},
};
static PyType_Slot slots[] = {
    {Py_tp_new, clocks_new},           {Py_tp_init, clocks_init},   {Py_tp_dealloc, clocks_dealloc},
    {Py_tp_traverse, clocks_traverse}, {Py_tp_clear, clocks_clear}, {Py_tp_members, members},
    {Py_tp_getset, getset},            {Py_tp_methods, methods},    {0},
};
static PyType_Spec spec = {
    "tailbudget.instrument._clocks.Clocks", sizeof(clocks), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, slots,
};

int add_clocks(PyObject *module) {
    if (intern_names((const char *const[]){"_fold"}, (PyObject **[]){&name_fold}, 1) < 0) return -1;
    clocks_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &spec, NULL);
    return clocks_type ? PyModule_AddObjectRef(module, "Clocks", (PyObject *)clocks_type) : -1;
}

static int import_clock(void) {
    PyObject *time = PyImport_ImportModule("time");
    if (time) perf_counter_ns = PyObject_GetAttrString(time, "perf_counter_ns");
    Py_XDECREF(time);
    return perf_counter_ns ? 0 : -1;
}

/* One interpreter of a process has it: types are in static variables, as calls through each chunk want them. */
static struct PyModuleDef module_def = {PyModuleDef_HEAD_INIT, "_clocks", NULL, -1, NULL, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__clocks(void) {
    PyObject *module = PyModule_Create(&module_def);
    if (module && (import_clock() < 0 || add_clocks(module) < 0 || add_loops(module) < 0 || add_parts(module) < 0 ||
                   add_reckoning(module) < 0 || PyModule_AddIntConstant(module, "LAYOUT", LAYOUT) < 0))
        Py_CLEAR(module);
    return module;
}
