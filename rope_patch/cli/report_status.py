"""What a report keeps of ``status``: who decided what, without hosts, process ids and places."""

from typing import Any

WHO = "role", "rank", "world_size"


def shorten(part: dict[str, Any]) -> list[str]:
    """Cut the part's answer down in place; returns the names of hosts that were in it."""
    answer = part.get("answer")
    if answer is None:
        return []
    processes = answer.get("processes", [])
    hosts = {one["process"]["host"] for one in processes}
    part["answer"] = {
        "processes": [
            {
                **{name: one["process"][name] for name in WHO},
                "life": "gone" if one["life"] == "gone" else "live",
                "status": one["status"],
            }
            for one in processes
        ],
        "unreadable": len(answer.get("unreadable", [])),
        "problems": answer.get("problems", []),
    }
    return sorted(hosts | {host.partition(".")[0] for host in hosts})
