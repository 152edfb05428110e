from cedargate import Entity
from django.conf import settings
from django.db import models


class Ticket(models.Model):
    tenant = models.CharField(max_length=50)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE)
    title = models.CharField(max_length=100)

    def entity(self):
        attrs = {"tenant": Entity("Tenant", self.tenant), "owner": Entity("User", self.owner.get_username()), "status": "open"}
        return Entity("Order", str(self.pk), attrs)
