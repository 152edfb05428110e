# What a tenant's gate needs. docs/terraform.md has an example.

variable "name" {
  description = "Name of the release: the tenant's app."
  type        = string

  validation {
    condition     = can(regex("^[a-z]([a-z0-9-]{0,51}[a-z0-9])?$", var.name))
    error_message = "The name is in lower case, at most 53 characters: letters, digits and hyphens."
  }
}

variable "namespace" {
  description = "Namespace of the tenant."
  type        = string
}

variable "create_namespace" {
  description = "Make the namespace if it is not there."
  type        = bool
  default     = false
}

variable "chart" {
  description = "The chart: an OCI reference, or a path such as ../cedargate."
  type        = string
  default     = "oci://ghcr.io/cedargate/charts/cedargate"
}

variable "chart_version" {
  description = "Version of the chart. Null: that of the path, or the newest."
  type        = string
  default     = null
}

variable "tree" {
  description = "Folder that holds `policies/` and `schemas/` of the tenant. Null: the policies come from `values` (git-sync, a volume, ConfigMaps, a bundle)."
  type        = string
  default     = null

  validation {
    condition     = var.tree == null || length(fileset(coalesce(var.tree, "."), "policies/**")) > 0
    error_message = "The tree has no file below `policies/`."
  }
}

variable "config" {
  description = "cedargate.yaml as an object: `portals`, `issuers`, `login` and so on. Values that start with `danger_` are refused."
  type        = any

  validation {
    condition     = length(regexall("danger_", jsonencode(var.config))) == 0
    error_message = "A `danger_` key gives up a protection of the gate; this module does not set one."
  }

  validation {
    condition     = alltrue([for issuer in try(var.config.issuers, []) : length(try(issuer.audiences, [])) > 0])
    error_message = "Every issuer needs `audiences`."
  }
}

variable "redis" {
  description = "Where sessions are kept, and the existing Secrets with its password and with the session keys. Null: in memory, for apps without logins."
  type = object({
    url                = string
    username           = optional(string, "")
    password_secret    = optional(string, "")
    session_key_secret = string
    tls_secret         = optional(string, "")
  })
  default = null

  validation {
    condition     = var.redis == null || can(regex("^rediss?://", var.redis.url))
    error_message = "The URL is `redis://` or, better, `rediss://`."
  }
}

variable "monitoring" {
  description = "Make a PodMonitor, the alerts and the dashboards (Prometheus operator, Grafana's sidecar). Switch alerts and dashboards on in one release per Prometheus."
  type = object({
    pod_monitor = optional(bool, true)
    alerts      = optional(bool, false)
    dashboards  = optional(bool, false)
  })
  default = {}
}

variable "replicas" {
  description = "Pods of the gate."
  type        = number
  default     = 2

  validation {
    condition     = var.replicas >= 1
    error_message = "At least one."
  }
}

variable "values" {
  description = "More values of the chart; they win over the module's own."
  type        = any
  default     = {}
}

variable "timeout" {
  description = "Seconds that the installation may take. A gate is ready when its policies are loaded."
  type        = number
  default     = 300
}
