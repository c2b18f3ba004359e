#!/usr/bin/env python3
"""Right and wrong requests of groups, in every version; prints what came back, one line a probe.

    group_probe.py HOST:PORT [messages]      with `messages`, error messages are printed, too

Run it against Kafka and against a fresh Coreline and compare the lines. Member ids are shown by the order in which they
appeared, so that everything printed is independent of ids, times and ports.
"""
import re
import sys
import time

from raw_probe import Connection, Reader, cstring, cdata, data, header, i8, i16, i32, i64, string, uvarint

MESSAGES = False

# A field: name, type, first version, last version. Types: i8 i16 i32 i64 bool uuid, str and bytes (null is None), [type], (fields),
# ?(fields) for one that may be null.
PARTITIONS = [("topic", "uuid"), ("partitions", ["i32"])]
DESCRIBED = [("partitions", [[("topic", "uuid"), ("name", "str"), ("partitions", ["i32"])]])]
TOPIC = [("name", "str", 0, 9), ("topic", "uuid", 10)]
APIS = {  # key, first flexible version, versions, request, response
    "JoinGroup": (11, 6, range(0, 10), [("group", "str"), ("session", "i32"), ("rebalance", "i32", 1), ("member", "str"), ("instance", "str", 5),
                                       ("type", "str"), ("protocols", [[("name", "str"), ("metadata", "bytes")]]), ("reason", "str", 8)],
                  [("throttle", "i32", 2), ("error", "i16"), ("generation", "i32"), ("type", "str", 7), ("protocol", "str"), ("leader", "str"),
                   ("skip", "bool", 9), ("member", "str"), ("members", [[("member", "str"), ("instance", "str", 5), ("metadata", "bytes")]])]),
    "SyncGroup": (14, 4, range(0, 6), [("group", "str"), ("generation", "i32"), ("member", "str"), ("instance", "str", 3), ("type", "str", 5),
                                      ("protocol", "str", 5), ("assignments", [[("member", "str"), ("assignment", "bytes")]])],
                  [("throttle", "i32", 1), ("error", "i16"), ("type", "str", 5), ("protocol", "str", 5), ("assignment", "bytes")]),
    "Heartbeat": (12, 4, range(0, 5), [("group", "str"), ("generation", "i32"), ("member", "str"), ("instance", "str", 3)],
                  [("throttle", "i32", 1), ("error", "i16")]),
    "LeaveGroup": (13, 4, range(0, 6), [("group", "str"), ("member", "str", 0, 2),
                                       ("members", [[("member", "str"), ("instance", "str"), ("reason", "str", 5)]], 3)],
                   [("throttle", "i32", 1), ("error", "i16"), ("members", [[("member", "str"), ("instance", "str"), ("error", "i16")]], 3)]),
    "OffsetCommit": (8, 8, range(2, 11), [("group", "str"), ("generation", "i32"), ("member", "str"), ("instance", "str", 7), ("retention", "i64", 2, 4),
                                          ("topics", [[*TOPIC, ("partitions", [[("index", "i32"), ("offset", "i64"), ("epoch", "i32", 6), ("metadata", "str")]])]])],
                     [("throttle", "i32", 3), ("topics", [[*TOPIC, ("partitions", [[("index", "i32"), ("error", "i16")]])]])]),
    "OffsetFetch": (9, 6, range(1, 11), [("group", "str", 0, 7), ("topics", [[("name", "str"), ("partitions", ["i32"])]], 0, 7),
                                         ("groups", [[("group", "str"), ("member", "str", 9), ("epoch", "i32", 9),
                                                      ("topics", [[*TOPIC, ("partitions", ["i32"])]])]], 8), ("stable", "bool", 7)],
                    [("throttle", "i32", 3), ("topics", [[("name", "str"), ("partitions", [[("index", "i32"), ("offset", "i64"), ("epoch", "i32", 5),
                                                                                           ("metadata", "str"), ("error", "i16")]])]], 0, 7),
                     ("error", "i16", 2, 7), ("groups", [[("group", "str"), ("topics", [[*TOPIC, ("partitions", [[
                         ("index", "i32"), ("offset", "i64"), ("epoch", "i32"), ("metadata", "str"), ("error", "i16")]])]]), ("error", "i16")]], 8)]),
    "DescribeGroups": (15, 5, range(0, 7), [("groups", ["str"]), ("operations", "bool", 3)],
                       [("throttle", "i32", 1), ("groups", [[("error", "i16"), ("message", "str", 6), ("group", "str"), ("state", "str"), ("type", "str"),
                                                             ("protocol", "str"), ("members", [[("member", "str"), ("instance", "str", 4), ("client", "str"),
                                                                                               ("host", "str"), ("metadata", "bytes"),
                                                                                               ("assignment", "bytes")]]), ("operations", "i32", 3)]])]),
    "ListGroups": (16, 3, range(0, 6), [("states", ["str"], 4), ("types", ["str"], 5)],
                   [("throttle", "i32", 1), ("error", "i16"), ("groups", [[("group", "str"), ("protocol", "str"), ("state", "str", 4), ("type", "str", 5)]])]),
    "DeleteGroups": (42, 2, range(0, 3), [("groups", ["str"])], [("throttle", "i32"), ("groups", [[("group", "str"), ("error", "i16")]])]),
    "OffsetDelete": (47, 99, range(0, 1), [("group", "str"), ("topics", [[("name", "str"), ("partitions", ["i32"])]])],
                     [("error", "i16"), ("throttle", "i32"), ("topics", [[("name", "str"), ("partitions", [[("index", "i32"), ("error", "i16")]])]])]),
    "ConsumerGroupHeartbeat": (68, 0, range(0, 2), [("group", "str"), ("member", "str"), ("epoch", "i32"), ("instance", "str"), ("rack", "str"),
                                                    ("rebalance", "i32"), ("topics", ["str"]), ("regex", "str", 1), ("assignor", "str"),
                                                    ("owned", [PARTITIONS])],
                               [("throttle", "i32"), ("error", "i16"), ("message", "str"), ("member", "str"), ("epoch", "i32"), ("interval", "i32"),
                                ("assignment", ("?", [("partitions", [PARTITIONS])]))]),
    "ConsumerGroupDescribe": (69, 0, range(0, 2), [("groups", ["str"]), ("operations", "bool")],
                              [("throttle", "i32"), ("groups", [[("error", "i16"), ("message", "str"), ("group", "str"), ("state", "str"), ("epoch", "i32"),
                                                                 ("assigned", "i32"), ("assignor", "str"), ("members", [[
                                                                     ("member", "str"), ("instance", "str"), ("rack", "str"), ("epoch", "i32"),
                                                                     ("client", "str"), ("host", "str"), ("topics", ["str"]), ("regex", "str"),
                                                                     ("assignment", DESCRIBED), ("target", DESCRIBED), ("type", "i8", 1)]]),
                                                                 ("operations", "i32")]])]),
    "IncrementalAlterConfigs": (44, 1, range(0, 2), [("resources", [[("type", "i8"), ("name", "str"), ("configs", [[("name", "str"), ("operation", "i8"),
                                                                                                                  ("value", "str")]])]]), ("validate", "bool")],
                                [("throttle", "i32"), ("responses", [[("error", "i16"), ("message", "str"), ("type", "i8"), ("name", "str")]])]),
    "AlterConfigs": (33, 2, range(0, 3), [("resources", [[("type", "i8"), ("name", "str"), ("configs", [[("name", "str"), ("value", "str")]])]]),
                                          ("validate", "bool")],
                     [("throttle", "i32"), ("responses", [[("error", "i16"), ("message", "str"), ("type", "i8"), ("name", "str")]])]),
    "DescribeConfigs": (32, 4, range(1, 5), [("resources", [[("type", "i8"), ("name", "str"), ("keys", ["str"])]]), ("synonyms", "bool"), ("documents", "bool", 3)],
                        [("throttle", "i32"), ("results", [[("error", "i16"), ("message", "str"), ("type", "i8"), ("name", "str"), ("configs", [[
                            ("name", "str"), ("value", "str"), ("readonly", "bool"), ("source", "i8"), ("sensitive", "bool"),
                            ("synonyms", [[("name", "str"), ("value", "str"), ("source", "i8")]]), ("kind", "i8", 3), ("document", "str", 3)]])]])]),
    "ListConfigResources": (74, 0, range(1, 2), [("types", ["i8"], 1)], [("throttle", "i32"), ("error", "i16"), ("resources", [[("name", "str"), ("type", "i8")]])]),
    "Metadata": (3, 9, range(12, 13), [("topics", [[("topic", "uuid"), ("name", "str")]]), ("create", "bool"), ("operations", "bool")],
                 [("throttle", "i32"), ("brokers", [[("node", "i32"), ("host", "str"), ("port", "i32"), ("rack", "str")]]), ("cluster", "str"),
                  ("controller", "i32"), ("topics", [[("error", "i16"), ("name", "str"), ("topic", "uuid"), ("internal", "bool"), ("partitions", [[
                      ("error", "i16"), ("index", "i32"), ("leader", "i32"), ("epoch", "i32"), ("replicas", ["i32"]), ("isr", ["i32"]),
                      ("offline", ["i32"])]]), ("operations", "i32")]])]),
    "FindCoordinator": (10, 3, range(0, 7), [("key", "str", 0, 3), ("type", "i8", 1), ("keys", ["str"], 4)],
                        [("throttle", "i32", 1), ("error", "i16", 0, 3), ("message", "str", 1, 3), ("node", "i32", 0, 3), ("host", "str", 0, 3),
                         ("port", "i32", 0, 3), ("coordinators", [[("key", "str"), ("node", "i32"), ("host", "str"), ("port", "i32"),
                                                                   ("error", "i16"), ("message", "str")]], 4)]),
}
NUMBERS = {"i8": i8, "i16": i16, "i32": i32, "i64": i64, "bool": lambda b: i8(int(b)), "uuid": lambda b: b or bytes(16)}
ZERO = {"i8": 0, "i16": 0, "i32": 0, "i64": 0, "bool": False, "uuid": None, "str": "", "bytes": b""}


def in_version(field, version):
    since, until = field[2] if len(field) > 2 else 0, field[3] if len(field) > 3 else 99
    return since <= version <= until


def write(kind, value, version, flexible):
    if isinstance(kind, list) and kind and isinstance(kind[0], tuple):
        fields = [f for f in kind if in_version(f, version)]
        zero = lambda t: ZERO[t] if isinstance(t, str) else []
        out = b"".join(write(f[1], value.get(f[0], zero(f[1])), version, flexible) for f in fields)
        return out + (b"\0" if flexible else b"")
    if isinstance(kind, list):
        if value is None:
            return uvarint(0) if flexible else i32(-1)
        count = uvarint(len(value) + 1) if flexible else i32(len(value))
        return count + b"".join(write(kind[0], v, version, flexible) for v in value)
    if kind == "str":
        return cstring(value) if flexible else string(value)
    if kind == "bytes":
        return cdata(value) if flexible else data(value)
    return NUMBERS[kind](value)


def read(kind, r, version, flexible):
    if isinstance(kind, tuple):  # may be null
        return None if r.i8() < 0 else read(kind[1], r, version, flexible)
    if isinstance(kind, list) and isinstance(kind[0], tuple):
        got = {f[0]: read(f[1], r, version, flexible) for f in kind if in_version(f, version)}
        if flexible:
            r.tags()
        return got
    if isinstance(kind, list):
        item = lambda: read(kind[0], r, version, flexible)
        return r.carray(item) if flexible else r.array(item)
    if kind == "str":
        return r.cstring() if flexible else r.string()
    if kind == "bytes":
        if not flexible:
            return r.data()
        n = r.uvarint()
        return None if n == 0 else r.take(n - 1)
    if kind == "uuid":
        return r.take(16)
    return bool(r.i8()) if kind == "bool" else getattr(r, kind)()


class Client:
    """A connection, and the names of what differs from run to run."""

    known = {}
    ids = {}  # of topics, by name

    def __init__(self, address, id="probe"):
        self.address, self.id, self.connection = address, id, Connection(address)

    def send(self, api, version, **fields):
        key, flexible_from, _, request, _ = APIS[api]
        with_ids(fields)
        flexible = version >= flexible_from
        # Requests end with tagged fields where they are flexible; write() does as for any other struct.
        self.connection.send(header(key, version, flexible, client=self.id) + write(request, fields, version, flexible))

    def receive(self, api, version):
        answer = self.connection.receive()
        if not isinstance(answer, Reader):
            self.connection = Connection(self.address)
            return answer or "connection closed"
        _, flexible_from, _, _, response = APIS[api]
        flexible = version >= flexible_from
        if flexible:
            answer.tags()
        got = read(response, answer, version, flexible)
        assert answer.at == len(answer.b), f"{api} {version}: {len(answer.b) - answer.at} bytes too many: {got}"
        return got

    def ask(self, api, version, **fields):
        self.send(api, version, **fields)
        return self.receive(api, version)


def shown(value, name=""):
    if isinstance(value, dict):
        return "{" + " ".join(f"{k}={shown(v, k)}" for k, v in value.items() if k not in ("throttle", "port", "operations")) + "}"
    if isinstance(value, list):
        return "[" + " ".join(shown(v, name) for v in value) + "]"
    if name == "message" and not MESSAGES:
        return "…" if value else "none"
    if name == "topic":
        return next((name for name, id in Client.ids.items() if id == value), "ID")
    if isinstance(value, str):
        return re.sub(r"[\w.]*-?[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|(?<![\w-])[\w-]{22}(?![\w-])",
                      lambda m: Client.known.setdefault(m.group(), f"M{len(Client.known) + 1}"), value) or "''"
    if isinstance(value, bytes):
        return value.hex() or "''"
    return str(value)


def with_ids(value):
    """Says of each topic the id beside the name; an unknown one of a topic that is not there."""
    if isinstance(value, dict) and "name" in value and "partitions" in value:
        value.setdefault("topic", Client.ids.get(value["name"], b"\7" * 16))
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        with_ids(inner)


def learn_ids(c):
    names = ("gp-t", "gp-u")
    asked = lambda: c.ask("Metadata", 12, topics=[{"topic": None, "name": name} for name in names])
    for topic in eventually(asked, lambda a: all(t["error"] == 0 for t in a["topics"]))["topics"]:
        Client.ids[topic["name"]] = topic["topic"]


def say(what, answer): print(f"{what}: {shown(answer)}", flush=True)


def create(client, name, partitions):
    body = carray_topics(name, partitions)
    client.connection.send(header(19, 4) + body)
    assert isinstance(client.connection.receive(), Reader)


def carray_topics(name, partitions):
    return i32(1) + string(name) + i32(partitions) + i16(1) + i32(0) + i32(0) + i32(10000) + i8(0)


def eventually(call, done, tries=200):
    """Until it is so: groups are ready a while after the first question for their coordinator."""
    for _ in range(tries):
        answer = call()
        if done(answer):
            return answer
        time.sleep(0.05)
    sys.exit(f"not in time: {answer}")


SUBSCRIPTION = bytes.fromhex("0000" "00000001" "0004") + b"gp-t" + bytes.fromhex("ffffffff")
CONSUMER = {"session": 30000, "rebalance": 30000, "type": "consumer", "protocols": [{"name": "range", "metadata": SUBSCRIPTION}], "instance": None,
            "reason": None}


def coordinators(c):
    for version in APIS["FindCoordinator"][2]:
        done = lambda a: a.get("error", 0) == 0 and all(k["error"] == 0 for k in a.get("coordinators", []))
        fields = {"key": "g", "keys": ["g", "h"], "type": 0}
        answer = eventually(lambda: c.ask("FindCoordinator", version, **fields), done)
        say(f"coordinator v{version}", {k: v for k, v in answer.items() if k != "message"})
    say("coordinator of an unknown kind", c.ask("FindCoordinator", 4, keys=["g"], type=9))
    say("coordinator of no group", c.ask("FindCoordinator", 4, keys=[""], type=0))
    eventually(lambda: c.ask("ListGroups", 5), lambda a: a["error"] == 0)
    for group in ("gp", "gp-none", "gp-848", "gp-offsets", ""):
        eventually(lambda: c.ask("DescribeGroups", 5, groups=[group]), lambda a: a["groups"][0]["error"] not in (14, 15, 16))


def member_of_every_version(c):
    """A group of one member, from its first join to its end, in each version of each request."""
    for version in APIS["JoinGroup"][2]:
        group = f"gp-{version}"
        eventually(lambda: c.ask("DescribeGroups", 5, groups=[group]), lambda a: a["groups"][0]["error"] not in (14, 15, 16))
        joined = c.ask("JoinGroup", version, group=group, **CONSUMER)
        say(f"join v{version}", joined)
        if joined["error"] == 79:
            joined = c.ask("JoinGroup", version, group=group, **{**CONSUMER, "member": joined["member"]})
            say(f"join v{version} with the id", joined)
        member, generation = joined["member"], joined["generation"]
        say(f"leader's join again v{version}", c.ask("JoinGroup", version, group=group, **{**CONSUMER, "member": member}))
        v = min(version, 5)
        sync = {"group": group, "generation": generation, "member": member, "instance": None, "type": "consumer", "protocol": "range"}
        say(f"sync v{v}", c.ask("SyncGroup", v, **sync, assignments=[{"member": member, "assignment": b"\0\1"}]))
        v = min(version, 4)
        beat = {"group": group, "generation": generation, "member": member, "instance": None}
        say(f"heartbeat v{v}", c.ask("Heartbeat", v, **beat))
        say(f"heartbeat v{v} of another generation", c.ask("Heartbeat", v, **{**beat, "generation": 77}))
        say(f"heartbeat v{v} of nobody", c.ask("Heartbeat", v, **{**beat, "member": "nobody"}))
        say(f"describe v{min(version, 6)}", c.ask("DescribeGroups", min(version, 6), groups=[group]))
        v = min(version, 5)
        say(f"leave v{v} of nobody", c.ask("LeaveGroup", v, group=group, member="nobody", members=[{"member": "nobody", "instance": None, "reason": None}]))
        leave = {"member": member, "instance": None, "reason": "over"}
        say(f"leave v{v}", c.ask("LeaveGroup", v, group=group, member=member, members=[leave]))
        v = min(version, 2)
        say(f"delete v{v}", c.ask("DeleteGroups", v, groups=[group]))


def wrong_joins(c):
    join = lambda what, version=9, **fields: say(f"join {what}", c.ask("JoinGroup", version, **{"group": "gp", **CONSUMER, **fields}))
    join("no group", group="")
    join("a short session", session=10)
    join("a long session", session=1800001)
    join("an unknown member", member="nobody")
    join("no protocols", protocols=[])
    join("no type", type="")
    join("an unknown static member", instance="i", member="nobody")
    say("sync of nothing", c.ask("SyncGroup", 5, group="gp-none", generation=1, member="m", instance=None, type="consumer", protocol="range"))
    say("sync of no group", c.ask("SyncGroup", 5, group="", generation=1, member="m", instance=None, type="consumer", protocol="range"))
    say("heartbeat of nothing", c.ask("Heartbeat", 4, group="gp-none", generation=1, member="m", instance=None))
    say("heartbeat of no group", c.ask("Heartbeat", 4, group="", generation=1, member="m", instance=None))
    say("leave nothing", c.ask("LeaveGroup", 5, group="gp-none", members=[{"member": "m", "instance": None, "reason": None}]))
    say("leave no group", c.ask("LeaveGroup", 5, group="", members=[{"member": "m", "instance": None, "reason": None}]))


def a_stable_group(address, c):
    """Two members, one of them static, and who meddles with them."""
    one, two = Client(address, "one"), Client(address, "two")
    first = one.ask("JoinGroup", 9, group="gp", **CONSUMER)
    first = one.ask("JoinGroup", 9, group="gp", **{**CONSUMER, "member": first["member"]})
    two.send("JoinGroup", 9, group="gp", **{**CONSUMER, "instance": "i"})
    beat = {"group": "gp", "generation": 1, "member": first["member"], "instance": None}
    rebalancing = eventually(lambda: one.ask("Heartbeat", 4, **beat), lambda a: a["error"] != 0)
    say("heartbeat while it rebalances", rebalancing)
    say("commit while it rebalances", one.ask("OffsetCommit", 9, group="gp", generation=1, member=first["member"], instance=None, topics=[
        {"name": "gp-t", "partitions": [{"index": 0, "offset": 1, "epoch": -1, "metadata": ""}]}]))
    say("states while it rebalances", [g for g in c.ask("ListGroups", 5, states=["preparingrebalance"])["groups"] if g["group"] == "gp"])
    leader = one.ask("JoinGroup", 9, group="gp", **{**CONSUMER, "member": first["member"]})
    # Members come in any order.
    leader["members"].sort(key=lambda m: m["instance"] or "")
    say("the leader", leader)
    second = two.receive("JoinGroup", 9)
    say("the other", second)
    say("describe before sync", {k: v for k, v in c.ask("DescribeGroups", 6, groups=["gp"])["groups"][0].items() if k in ("state", "protocol", "type")})
    sync = {"group": "gp", "generation": 2, "type": "consumer", "protocol": "range", "instance": None}
    say("sync another protocol", one.ask("SyncGroup", 5, **{**sync, "member": first["member"], "protocol": "roundrobin"}))
    say("sync another type", one.ask("SyncGroup", 5, **{**sync, "member": first["member"], "type": "connect"}))
    say("sync another generation", one.ask("SyncGroup", 5, **{**sync, "member": first["member"], "generation": 9}))
    assignments = [{"member": first["member"], "assignment": b"\1"}, {"member": second["member"], "assignment": b"\2"}]
    say("sync leader", one.ask("SyncGroup", 5, **{**sync, "member": first["member"]}, assignments=assignments))
    say("sync other", two.ask("SyncGroup", 5, **{**sync, "member": second["member"], "instance": "i"}))
    say("sync again", two.ask("SyncGroup", 5, **{**sync, "member": second["member"], "instance": "i"}))
    say("static member under another id", c.ask("Heartbeat", 4, group="gp", generation=2, member="other", instance="i"))
    say("static join under another id", c.ask("JoinGroup", 9, group="gp", **{**CONSUMER, "instance": "i", "member": "other"}))
    say("another type of protocol", c.ask("JoinGroup", 9, group="gp", **{**CONSUMER, "type": "connect"}))
    say("no common protocol", c.ask("JoinGroup", 9, group="gp", **{**CONSUMER, "protocols": [{"name": "mine", "metadata": b""}]}))
    described = c.ask("DescribeGroups", 6, groups=["gp"])["groups"][0]
    described["members"].sort(key=lambda m: m["client"])
    say("describe", described)
    lists(c)
    commits(c, first["member"])
    ordered("delete with members", c.ask("DeleteGroups", 2, groups=["gp", "gp-none", ""]))
    ordered("delete offsets with members", c.ask("OffsetDelete", 0, group="gp", topics=[{"name": "gp-t", "partitions": [0]}, {"name": "gp-u", "partitions": [0, 9]}]))
    back = Client(address, "two-again").ask("JoinGroup", 9, group="gp", **{**CONSUMER, "instance": "i"})
    say("the static member comes back", back)
    say("its old self", two.ask("Heartbeat", 4, group="gp", generation=2, member=second["member"], instance="i"))
    say("the leader meanwhile", one.ask("Heartbeat", 4, group="gp", generation=2, member=first["member"], instance=None))
    say("both leave", c.ask("LeaveGroup", 5, group="gp", members=[{"member": "", "instance": "i", "reason": None},
                                                                 {"member": first["member"], "instance": None, "reason": "x" * 300}]))
    say("describe without members", c.ask("DescribeGroups", 6, groups=["gp"]))
    say("commit of a member that left", c.ask("OffsetCommit", 9, group="gp", generation=2, member=first["member"], instance=None, topics=[
        {"name": "gp-t", "partitions": [{"index": 0, "offset": 1, "epoch": -1, "metadata": ""}]}]))
    ordered("delete offsets", c.ask("OffsetDelete", 0, group="gp", topics=[{"name": "gp-t", "partitions": [0, 9]}, {"name": "gp-none", "partitions": [0]}]))
    say("delete offsets of nothing", c.ask("OffsetDelete", 0, group="gp-none", topics=[{"name": "gp-t", "partitions": [0]}]))
    say("delete", c.ask("DeleteGroups", 2, groups=["gp"]))


def lists(c):
    for version in APIS["ListGroups"][2]:
        for what, fields in [("all", {}), ("stable", {"states": ["Stable"]}), ("STABLE", {"states": ["STABLE"]}), ("no such state", {"states": ["what"]}),
                             ("classic", {"types": ["classic"]}), ("Classic", {"types": ["Classic"]}), ("consumer", {"types": ["consumer"]}),
                             ("CONSUMER", {"types": ["CONSUMER"]}), ("no such type", {"types": ["what"]}), ("both", {"states": ["stable", "empty"], "types": ["classic", "share"]})]:
            if (version >= 4 or not fields) and (version >= 5 or "types" not in fields):
                answer = c.ask("ListGroups", version, **fields)
                groups = sorted((g for g in answer["groups"] if g["group"].startswith("gp")), key=lambda g: g["group"])
                say(f"list {what} v{version}", {"error": answer["error"], "groups": groups})


def commits(c, member):
    def commit(what, version=9, **fields):
        topics = fields.pop("topics", None) or [{"name": "gp-t", "partitions": [{"index": fields.pop("index", 0), "offset": fields.pop("offset", 5), "epoch": -1,
                                                                                  "metadata": fields.pop("metadata", "m")}]}]
        ordered(f"commit {what}", c.ask("OffsetCommit", version, **{"group": "gp", "generation": 2, "member": member, "instance": None, "retention": -1,
                                                                   "topics": topics, **fields}))
    for version in APIS["OffsetCommit"][2]:
        commit(f"v{version}", version, offset=version)
    commit("another generation", generation=1)
    commit("nobody", member="nobody")
    commit("a simple one, with members there", member="", generation=-1)
    commit("another instance", instance="i")
    commit("no such partition", index=7)
    commit("of a negative partition", index=-1)
    commit("of a negative offset", offset=-1)
    commit("no such topic", topics=[{"name": "gp-none", "partitions": [{"index": 0, "offset": 1, "epoch": -1, "metadata": ""}]}])
    commit("much metadata", metadata="x" * 4097)
    commit("just so much metadata", metadata="x" * 4096)
    commit("null metadata", metadata=None)
    commit("no group", group="")
    commit("without topics", topics=[{"name": "gp-t", "partitions": []}])
    commit("of nothing, with a generation", group="gp-none")
    commit("of nothing", group="gp-offsets", member="", generation=-1, topics=[
        {"name": "gp-t", "partitions": [{"index": i, "offset": i, "epoch": 3, "metadata": "of nothing"} for i in range(2)]},
        {"name": "gp-u", "partitions": [{"index": i, "offset": i, "epoch": 3, "metadata": "x" * 5000 if i else ""} for i in range(2)]}])
    for version in APIS["OffsetFetch"][2]:
        topics = [{"name": "gp-t", "partitions": [0, 1, 9]}, {"name": "gp-none", "partitions": [0]}]
        ordered(f"fetch v{version}", c.ask("OffsetFetch", version, group="gp-offsets", topics=topics, stable=True, groups=[
            {"group": "gp-offsets", "member": None, "epoch": -1, "topics": topics}]))
        if version >= 2:
            ordered(f"fetch all v{version}", c.ask("OffsetFetch", version, group="gp-offsets", topics=None, groups=[
                {"group": "gp-offsets", "member": None, "epoch": -1, "topics": None}]))
        ordered(f"fetch of nothing v{version}", c.ask("OffsetFetch", version, group="gp-none", topics=topics, groups=[
            {"group": "gp-none", "member": None, "epoch": -1, "topics": topics}]))
    for what, topic in [("an unknown id", b"\1" * 16), ("no id", bytes(16)), ("the id of another name", Client.ids["gp-u"])]:
        partitions = [{"index": i, "offset": 1, "epoch": -1, "metadata": ""} for i in (0, 7)]
        commit(f"{what} v10", 10, topics=[{"name": "gp-t", "topic": topic, "partitions": partitions}])
        commit(f"{what} v10, of nobody", 10, member="nobody", topics=[{"name": "gp-t", "topic": topic, "partitions": partitions}])
        for group in ("gp-offsets", "gp-none"):
            ordered(f"fetch {what} v10 of {group}", c.ask("OffsetFetch", 10, groups=[
                {"group": group, "member": None, "epoch": -1, "topics": [{"name": "gp-t", "topic": topic, "partitions": [0, 9]}]}]))
    commit("known and unknown ids v10", 10, topics=[{"name": name, "partitions": [{"index": 0, "offset": 5, "epoch": -1, "metadata": ""}]}
                                                    for name in ("gp-t", "gp-none")])
    commit("of another generation v10", 10, generation=1)
    for what, fields in [("a member of a classic group", {"group": "gp", "member": member, "epoch": 2}), ("nobody of a classic group", {"group": "gp", "member": "x", "epoch": 2}),
                         ("a member of nothing", {"group": "gp-none", "member": "x", "epoch": 2}), ("no group", {"group": "", "member": None, "epoch": -1})]:
        ordered(f"fetch by {what}", c.ask("OffsetFetch", 9, groups=[{**fields, "topics": [{"name": "gp-t", "partitions": [0]}]}]))


def ordered(what, answer):
    """Topics, partitions and groups come in any order."""
    answer.get("groups", []).sort(key=lambda g: g["group"])
    for holder in [answer, *answer.get("groups", [])]:
        for topic in holder.get("topics", []):
            topic["partitions"].sort(key=lambda p: p["index"])
        holder.get("topics", []).sort(key=lambda t: t.get("name") or shown(t["topic"], "topic"))
    say(what, answer)


def kip_848(address, c):
    join = {"group": "gp-848", "epoch": 0, "instance": None, "rack": None, "rebalance": 30000, "topics": ["gp-t"], "regex": None, "assignor": None, "owned": []}
    def beat(what, version=1, **fields):
        answer = c.ask("ConsumerGroupHeartbeat", version, **{**join, **fields})
        say(f"consumer {what}", answer)
        return answer
    me = "AAAAAAAAAAAAAAAAAAAAAA"
    for what, fields in [("no group", {"group": "", "member": me}), ("a member without id", {"member": ""}), ("no topics", {"member": me, "topics": None}),
                         ("no rebalance timeout", {"member": me, "rebalance": -1}), ("owns at the start", {"member": me, "owned": [{"topic": b"1" * 16, "partitions": [0]}]}),
                         ("owned null", {"member": me, "owned": None}), ("an unknown assignor", {"member": me, "assignor": "what"}),
                         ("an empty rack", {"member": me, "rack": ""}), ("an empty instance", {"member": me, "instance": ""}),
                         ("a wrong regex", {"member": me, "topics": None, "regex": "("}), ("an empty regex", {"member": me, "topics": None, "regex": ""}),
                         ("an epoch of nobody", {"member": me, "epoch": 3}), ("a negative epoch", {"member": me, "epoch": -5}),
                         ("leaves nothing", {"member": me, "epoch": -1}), ("a static leave without instance", {"member": me, "epoch": -2})]:
        beat(what, **fields)
    old = beat("v0 without id", 0, member="")
    c.ask("ConsumerGroupHeartbeat", 0, **{**join, "member": old["member"], "epoch": -1})
    c.ask("DeleteGroups", 2, groups=["gp-848"])
    one = beat("joins", member=me)
    beat("joins again", member=me)
    epoch = one["epoch"]
    same = {"member": me, "epoch": epoch, "topics": None, "rebalance": -1, "owned": None}
    beat("heartbeat", **same)
    beat("of an earlier epoch", **{**same, "epoch": epoch - 1})
    beat("of a later epoch", **{**same, "epoch": epoch + 5})
    beat("of nobody", **{**same, "member": "B" * 22})
    say("consumer group described as classic", c.ask("DescribeGroups", 6, groups=["gp-848"]))
    say("consumer group described as classic v5", c.ask("DescribeGroups", 5, groups=["gp-848"]))
    for version in APIS["ConsumerGroupDescribe"][2]:
        ordered(f"consumer describe v{version}", c.ask("ConsumerGroupDescribe", version, groups=["gp-848", "gp-none", "gp-offsets", ""]))
    lists(c)
    commit = {"group": "gp-848", "member": me, "instance": None, "topics": [{"name": "gp-t", "partitions": [{"index": 0, "offset": 1, "epoch": -1, "metadata": ""}]}]}
    for what, fields in [("", {"generation": epoch}), (" of a stale epoch", {"generation": epoch - 1}), (" of a later epoch", {"generation": epoch + 9}),
                         (" of nobody", {"generation": epoch, "member": "B" * 22}), (" of no member", {"generation": -1, "member": ""})]:
        for version in (8, 9, 10):
            say(f"consumer commit{what} v{version}", c.ask("OffsetCommit", version, **{**commit, **fields}))
    fetch = [{"name": "gp-t", "partitions": [0]}]
    for what, fields in [("", {"member": me, "epoch": epoch}), (" of a stale epoch", {"member": me, "epoch": epoch - 1}), (" of nobody", {"member": "B" * 22, "epoch": epoch}),
                         (" of an operator", {"member": None, "epoch": -1})]:
        for version in (9, 10):
            ordered(f"consumer fetch{what} v{version}", c.ask("OffsetFetch", version, groups=[{"group": "gp-848", "topics": fetch, **fields}]))
    say("classic heartbeat to a consumer group", c.ask("Heartbeat", 4, group="gp-848", generation=epoch, member=me, instance=None))
    say("classic sync to a consumer group", c.ask("SyncGroup", 5, group="gp-848", generation=epoch, member=me, instance=None, type="consumer", protocol="range"))
    say("classic leave of a consumer member", c.ask("LeaveGroup", 5, group="gp-848", members=[{"member": "x", "instance": None, "reason": None}]))
    say("delete a consumer group with members", c.ask("DeleteGroups", 2, groups=["gp-848"]))
    static = beat("static", member="C" * 22, instance="s")
    beat("static twice", member="D" * 22, instance="s")
    beat("static leaves for a while", member="C" * 22, instance="s", epoch=-2)
    beat("static comes back", member="D" * 22, instance="s")
    beat("static as it was before", member="C" * 22, instance="s", epoch=static["epoch"], topics=None, rebalance=-1, owned=None)
    beat("static leaves", member="D" * 22, instance="s", epoch=-1)
    beat("leaves", member=me, epoch=-1)
    say("consumer group without members", c.ask("ConsumerGroupDescribe", 1, groups=["gp-848"]))
    say("delete consumer group", c.ask("DeleteGroups", 2, groups=["gp-848"]))
    say("heartbeat to a classic name", c.ask("ConsumerGroupHeartbeat", 1, **{**join, "group": "gp-offsets", "member": me, "epoch": 4}))


def configs(c):
    """Settings of groups: only those that both brokers know."""
    session, interval = "consumer.session.timeout.ms", "consumer.heartbeat.interval.ms"

    def describe(what, **fields):
        answer = c.ask("DescribeConfigs", 4, resources=[{"type": 32, "name": "gp-848", "keys": [session, interval], **fields}], synonyms=True)
        for result in answer["results"]:
            result["configs"].sort(key=lambda e: e["name"])
        say(f"configs {what}", answer)

    def change(what, *changes, **fields):
        resource = {"type": 32, "name": "gp-848", "configs": [{"name": k, "operation": op, "value": v} for k, op, v in changes]}
        say(f"configs {what}", c.ask("IncrementalAlterConfigs", 1, resources=[{**resource, **fields}]))

    describe("of a group that is not there")
    describe("of no group", name="")
    describe("of one key", keys=[session])
    describe("of a key that is not there", keys=["what"])
    for what, changes in [("set", [(session, 0, "50000")]), ("too short", [(session, 0, "44999")]), ("too long", [(session, 0, "60001")]), ("zero", [(session, 0, "0")]),
                          ("no number", [(session, 0, "x")]), ("no value", [(session, 0, None)]), ("unknown key", [("what", 0, "1")]),
                          ("append", [(session, 2, "50000")]), ("twice", [(session, 0, "50000"), (session, 0, "51000")]),
                          ("too often", [(interval, 0, "4999")]), ("too seldom", [(interval, 0, "15001")]), ("two", [(interval, 0, "6000"), (session, 0, "51000")])]:
        change(what, *changes)
    change("of no group", (session, 0, "50000"), name="")
    describe("as they are")
    # Kafka keeps the names of groups whose settings were taken back, of other cases, too.
    say("configured", [r for r in c.ask("ListConfigResources", 1, types=[32])["resources"] if r["name"].startswith("gp-")])
    join = {"group": "gp-848", "member": "E" * 22, "epoch": 0, "instance": None, "rack": None, "rebalance": 30000, "topics": ["gp-t"], "regex": None, "assignor": None,
            "owned": []}
    say("a member's interval", c.ask("ConsumerGroupHeartbeat", 1, **join))
    change("while a member is there", (interval, 0, "7000"))
    eventually(lambda: c.ask("ConsumerGroupHeartbeat", 1, **join), lambda a: a["interval"] == 7000)
    say("a member's interval then", c.ask("ConsumerGroupHeartbeat", 1, **join))
    c.ask("ConsumerGroupHeartbeat", 1, **{**join, "epoch": -1})
    c.ask("DeleteGroups", 2, groups=["gp-848"])
    describe("when the group is gone")
    say("configs replaced", c.ask("AlterConfigs", 2, resources=[{"type": 32, "name": "gp-848", "configs": [{"name": session, "value": "55000"}]}]))
    describe("after that")
    change("taken back", (session, 1, None), (interval, 1, None))
    change("taken back again", (session, 1, None))
    describe("in the end")


def main():
    address = sys.argv[1]
    globals()["MESSAGES"] = "messages" in sys.argv[2:]
    c = Client(address)
    create(c, "gp-t", 2)
    create(c, "gp-u", 2)
    learn_ids(c)
    coordinators(c)
    member_of_every_version(c)
    wrong_joins(c)
    a_stable_group(address, c)
    kip_848(address, c)
    configs(c)


main()
