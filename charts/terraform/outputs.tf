output "release" {
  description = "Name of the release, for `helm test` and `helm rollback`."
  value       = helm_release.gate.name
}

output "namespace" {
  description = "Its namespace."
  value       = helm_release.gate.namespace
}

output "chart_version" {
  description = "Version of the chart that was installed."
  value       = helm_release.gate.version
}
