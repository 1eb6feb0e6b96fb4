"""Draw the template's dashboards from log lines: what CloudWatch would make of them, without CloudWatch."""
