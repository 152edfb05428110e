from cedargate.django import caller, permitted
from cedargate.django.rest import GatePermission
from django.contrib.auth.decorators import login_not_required
from django.contrib.auth.mixins import LoginRequiredMixin, UserPassesTestMixin
from django.http import JsonResponse
from django.shortcuts import aget_object_or_404, get_object_or_404
from django.views import View
from django.views.generic import DetailView, ListView, UpdateView
from rest_framework import serializers, viewsets
from rest_framework.decorators import action
from rest_framework.response import Response

from .models import Ticket


class TicketSerializer(serializers.ModelSerializer):
    class Meta:
        model = Ticket
        fields = ("id", "title", "owner")
        read_only_fields = ("owner",)


class Tickets(viewsets.ModelViewSet):
    """A view set with everything; `partial_update` and `assign` are not named, so they are denied."""

    queryset = Ticket.objects.select_related("owner")
    serializer_class = TicketSerializer
    permission_classes = (GatePermission,)
    gate_actions = {
        "list": None,
        "create": "editOrder",
        "retrieve": "viewOrder",
        "update": "editOrder",
        "close": "cancelOrder",
    }

    def gate_resource(self, ticket):
        return ticket.entity()

    def gate_collection(self, request):
        """Return the ticket as it would be."""
        return Ticket(pk=0, tenant=caller(request).tenant, owner=request.user).entity()

    def get_queryset(self):
        return super().get_queryset().filter(tenant=caller(self.request).tenant or "")

    def perform_create(self, serializer):
        serializer.save(owner=self.request.user, tenant=caller(self.request).tenant)

    @action(detail=True, methods=["post"])
    def close(self, request, pk):
        self.get_object().delete()
        return Response(status=204)

    @action(detail=False, methods=["post"])
    def assign(self, request):
        return Response({})


def load(request, pk):
    return get_object_or_404(Ticket.objects.select_related("owner"), pk=pk).entity()


async def load_async(request, pk):
    return (await aget_object_or_404(Ticket.objects.select_related("owner"), pk=pk)).entity()


class TicketList(LoginRequiredMixin, ListView):
    model = Ticket

    def render_to_response(self, context):
        return JsonResponse({"tickets": [ticket.title for ticket in context["object_list"]]})


@permitted("viewOrder", load)
class TicketPage(LoginRequiredMixin, UserPassesTestMixin, DetailView):
    model = Ticket

    def test_func(self):
        return self.request.user.is_active

    def render_to_response(self, context):
        return JsonResponse({"title": self.object.title})


@permitted("editOrder", load)
class TicketEdit(UpdateView):
    model = Ticket
    fields = ("title",)
    success_url = "/portal/customer/tickets/"
    template_name = "edit.html"


@permitted("viewOrder", load_async)
class AsyncTicket(View):
    async def get(self, request, pk):
        ticket = await Ticket.objects.aget(pk=pk)
        user = await request.auser()
        return JsonResponse({"title": ticket.title, "user": user.get_username()})


class PlainAsync(View):
    async def get(self, request, pk):
        return JsonResponse({"title": (await Ticket.objects.aget(pk=pk)).title})


wrapped = permitted("viewOrder", load_async)(PlainAsync.as_view())


def who(request):
    return JsonResponse(
        {"user": request.user.get_username(), "may": request.user.has_perm("tickets.change_ticket"), "https": request.is_secure()}
    )


@login_not_required
def up(request):
    return JsonResponse({})
