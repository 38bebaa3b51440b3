/* The parts of an answer on their way to the client of an ASGI app. */
#include "clocks.h"

#define NEVER INT64_MIN

typedef struct {
    PyObject_HEAD
    PyObject *send, *clock;
    int64_t last_byte_ns;
    char flows, send_tells_nothing;
} parts;

static PyObject *name_look, *name_more_body, *name_body;

static PyObject *parts_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)args, (void)kwargs;
    parts *self = (parts *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (self) self->last_byte_ns = NEVER;
    return (PyObject *)self;
}

static int parts_traverse(PyObject *object, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(((parts *)object)->send);
    Py_VISIT(((parts *)object)->clock);
    return 0;
}

static int parts_clear(PyObject *object) {
    Py_CLEAR(((parts *)object)->send);
    Py_CLEAR(((parts *)object)->clock);
    return 0;
}

static void parts_dealloc(PyObject *object) { give_back(object, parts_clear); }

/* Whether a message holds something true by that name; -1 for an exception. */
static int holds(PyObject *message, PyObject *name) {
    PyObject *value = PyDict_GetItemWithError(message, name);
    if (!value) return PyErr_Occurred() ? -1 : 0;
    return PyObject_IsTrue(value);
}

/* One more part of an answer that flows: stamped and handed on, else `_send_and_look` has to judge. */
static PyObject *send(PyObject *object, PyObject *message) {
    parts *self = (parts *)object;
    int usual = self->flows && self->send_tells_nothing && self->send && self->clock && PyDict_CheckExact(message);
    if (usual) usual = holds(message, name_more_body);
    if (usual > 0) usual = holds(message, name_body);
    if (usual < 0) return NULL;
    if (!usual) return PyObject_CallMethodObjArgs(object, name_look, message, NULL);
    int64_t now_ns = read_clock(self->clock);
    if (now_ns == -1 && PyErr_Occurred()) return NULL;
    self->last_byte_ns = now_ns;
    return PyObject_CallFunctionObjArgs(self->send, message, NULL);
}

static PyObject *last_byte_ns(PyObject *object, void *unused) {
    (void)unused;
    int64_t at_ns = ((parts *)object)->last_byte_ns;
    return at_ns == NEVER ? Py_NewRef(Py_None) : PyLong_FromLongLong(at_ns);
}

static int set_last_byte_ns(PyObject *object, PyObject *value, void *unused) {
    (void)unused;
    int64_t at_ns = value && value != Py_None ? PyLong_AsLongLong(value) : NEVER;
    if (at_ns == -1 && PyErr_Occurred()) return -1;
    ((parts *)object)->last_byte_ns = at_ns;
    return 0;
}

static PyMemberDef members[] = {
    {"_send", T_OBJECT, offsetof(parts, send), 0, NULL},
    {"_clock", T_OBJECT, offsetof(parts, clock), 0, NULL},
    {"_flows", T_BOOL, offsetof(parts, flows), 0, NULL},
    {"_send_tells_nothing", T_BOOL, offsetof(parts, send_tells_nothing), 0, NULL},
    {0},
};
static PyGetSetDef getset[] = {{"_last_byte_ns", last_byte_ns, set_last_byte_ns, NULL, NULL}, {0}};
static PyMethodDef methods[] = {{"send", send, METH_O, NULL}, {0}};
static PyType_Slot slots[] = {
    {Py_tp_new, parts_new},     {Py_tp_dealloc, parts_dealloc}, {Py_tp_traverse, parts_traverse}, {Py_tp_clear, parts_clear},
    {Py_tp_members, members},   {Py_tp_getset, getset},         {Py_tp_methods, methods},         {0},
};
static PyType_Spec spec = {
    "tailbudget.instrument._clocks.Parts", sizeof(parts), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, slots,
};

int add_parts(PyObject *module) {
    const char *const texts[] = {"_send_and_look", "more_body", "body"};
    if (intern_names(texts, (PyObject **[]){&name_look, &name_more_body, &name_body}, 3) < 0) return -1;
    PyObject *type = PyType_FromModuleAndSpec(module, &spec, NULL);
    return type ? PyModule_AddObjectRef(module, "Parts", type) : -1;
}
