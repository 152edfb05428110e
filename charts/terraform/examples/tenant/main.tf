# One tenant: its policies beside this file, sessions in Redis, secrets that exist in the cluster.

provider "helm" {}

module "orders" {
  source = "../.."

  name      = "orders"
  namespace = "acme"
  chart     = "${path.module}/../../../cedargate"
  tree      = "${path.module}/../../../.."

  config = {
    public_url = "https://orders.acme.example.com"
    upstream   = { url = "http://orders-app:3000" }
    portals = {
      customer = { match = { hosts = ["orders.acme.example.com"], path_prefix = "/portal/customer" }, tenant = { fixed = "acme" } }
      admin    = { match = { hosts = ["orders.acme.example.com"], path_prefix = "/portal/admin" }, tenant = { fixed = "acme" } }
    }
    issuers = [
      { name = "corp", issuer = "https://id.acme.example.com/", audiences = ["orders"], tenants = ["acme"] },
    ]
  }

  redis = {
    url                = "rediss://redis.data.svc:6380/0"
    username           = "cedargate-acme"
    password_secret    = "orders-redis"
    session_key_secret = "orders-sessions"
  }

  monitoring = { alerts = true, dashboards = true }
}
