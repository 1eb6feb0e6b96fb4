"""Draw the template's dashboards from log lines, as CloudWatch would show them, without CloudWatch."""
