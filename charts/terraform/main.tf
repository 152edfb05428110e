# Installs the chart for one tenant. Policies of `tree` become ConfigMaps of the chart, which the gate takes up while it runs.

locals {
  names = var.tree == null ? toset([]) : setunion(fileset(var.tree, "policies/**"), fileset(var.tree, "schemas/**"))
  files = { for name in local.names : name => file("${var.tree}/${name}") }

  # no value at all without Redis: a null would remove the chart's defaults
  redis = merge([
    for redis in var.redis[*] : {
      enabled          = true
      url              = redis.url
      username         = redis.username
      passwordSecret   = { name = redis.password_secret }
      sessionKeySecret = { name = redis.session_key_secret }
      tls              = { secret = redis.tls_secret }
    }
  ]...)

  values = {
    replicas       = var.replicas
    config         = var.config
    redis          = local.redis
    policies       = { files = local.files }
    podMonitor     = { enabled = var.monitoring.pod_monitor }
    prometheusRule = { enabled = var.monitoring.alerts }
    dashboards     = { enabled = var.monitoring.dashboards }
  }
}

resource "helm_release" "gate" {
  name             = var.name
  namespace        = var.namespace
  create_namespace = var.create_namespace
  chart            = var.chart
  version          = var.chart_version
  timeout          = var.timeout

  # a release that does not become ready is rolled back, so the running gates keep their configuration
  atomic          = true
  cleanup_on_fail = true

  values = [yamlencode(local.values), yamlencode(var.values)]
}
