// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Errors} from "@openzeppelin/contracts/utils/Errors.sol";

import {Ask, Bid, IEscrowBase, LeaseState, Match, Numbered, Relay} from "../../src/interfaces/IComputeEscrow.sol";
import {EscrowTest} from "../support/EscrowTest.sol";
import {Permit2} from "../support/Permit2.sol";
import {TypedData} from "../support/TypedData.sol";

/// @notice multicall: several calls of one sender, all or none. A relayer brings a deposit and what it pays for at once.
contract MulticallTest is EscrowTest {
    uint256 private constant AMOUNT = 5e18;

    address private _owner;
    uint256 private _ownerKey;
    address private _relayer = makeAddr("relayer");

    /// @dev From here on the usual buyer is an account with tokens, and nothing in the escrow.
    function setUp() public override {
        super.setUp();
        Permit2.deploy();
        (_owner, _ownerKey) = makeAddrAndKey("owner");
        token.transfer(_owner, AMOUNT);
        (buyer, buyerKey) = (_owner, _ownerKey);
    }

    function _two(bytes memory first, bytes memory second) private pure returns (bytes[] memory calls) {
        calls = new bytes[](2);
        (calls[0], calls[1]) = (first, second);
    }

    function _one(bytes memory call) private pure returns (bytes[] memory calls) {
        calls = new bytes[](1);
        calls[0] = call;
    }

    function _openCall() private view returns (bytes memory) {
        return abi.encodeCall(escrow.open, (_match(_ask(), _bid())));
    }

    function _multicall(bytes[] memory calls) private {
        vm.prank(_relayer);
        escrow.multicall(calls);
    }

    /* DEPOSIT AND OPEN */

    function _digestOf(bytes32 domain, bytes32 structHash) private pure returns (bytes32) {
        return keccak256(abi.encodePacked(hex"1901", domain, structHash));
    }

    /// @dev A deposit that the owner signed by EIP-3009.
    function _authorizationCall() private view returns (bytes memory) {
        bytes32 typeHash = keccak256(
            "ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
        );
        bytes32 structHash =
            keccak256(abi.encode(typeHash, _owner, address(escrow), AMOUNT, 0, type(uint256).max, bytes32("nonce")));
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(_ownerKey, _digestOf(token.DOMAIN_SEPARATOR(), structHash));
        return abi.encodeCall(
            escrow.depositWithAuthorization, (_owner, AMOUNT, 0, type(uint256).max, bytes32("nonce"), v, r, s)
        );
    }

    /// @dev A deposit that the owner signed for Permit2.
    function _permit2Call() private view returns (bytes memory) {
        bytes32 domain = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,uint256 chainId,address verifyingContract)"),
                keccak256("Permit2"),
                block.chainid,
                Permit2.AT
            )
        );
        bytes memory tokens = "TokenPermissions(address token,uint256 amount)";
        bytes32 permitted = keccak256(abi.encode(keccak256(tokens), address(token), AMOUNT));
        bytes32 typeHash = keccak256(
            bytes.concat(
                "PermitTransferFrom(TokenPermissions permitted,address spender,uint256 nonce,uint256 deadline)", tokens
            )
        );
        bytes32 structHash = keccak256(abi.encode(typeHash, permitted, address(escrow), 0, type(uint256).max));
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(_ownerKey, _digestOf(domain, structHash));
        return
            abi.encodeCall(escrow.depositWithPermit2, (_owner, AMOUNT, 0, type(uint256).max, abi.encodePacked(r, s, v)));
    }

    function _assertOpened() private view {
        bytes16 leaseNo = _leaseNo(_ask(), _bid());
        _assertState(leaseNo, LeaseState.Active);
        assertEq(_lease(leaseNo).locked, 2.5e18);
        assertEq(escrow.balanceOf(_owner), AMOUNT - 2.5e18);
        assertEq(escrow.balanceOf(_relayer), 0);
    }

    function test_relayer_deposits_by_authorization_and_opens_in_one_transaction() public {
        _multicall(_two(_authorizationCall(), _openCall()));
        _assertOpened();
    }

    function test_relayer_deposits_by_permit2_and_opens_in_one_transaction() public {
        vm.prank(_owner);
        token.approve(Permit2.AT, type(uint256).max);
        _multicall(_two(_permit2Call(), _openCall()));
        _assertOpened();
    }

    function test_batch_opens_inside_a_multicall() public {
        Match[] memory orders = new Match[](2);
        (orders[0], orders[1]) = (_match(_ask(), _bid()), _match(_ask(), _bid()));
        _multicall(_two(_authorizationCall(), abi.encodeCall(escrow.openBatch, (orders))));
        _assertOpened();
    }

    /// @dev All that a buyer without gas needs to keep a lease going.
    function test_relayer_deposits_and_tops_up_for_a_fee() public {
        _multicall(_two(_authorizationCall(), _openCall()));
        (Ask memory ask, Bid memory bid) = (_ask(), _bid());
        Relay memory relay = Relay(1, type(uint40).max, _relayer, 7);
        bytes32 pricesHash = TypedData.hash(ask.floor);
        bytes memory topUp = _sign(_ownerKey, TypedData.topUp(_owner, provider, _leaseNo(ask, bid), 60, relay));
        Relay memory last = Relay(2, type(uint40).max, _relayer, 8);
        bytes memory withdrawal = _sign(_ownerKey, TypedData.withdraw(_owner, stranger, 1e18, last));
        _multicall(
            _two(
                abi.encodeCall(escrow.topUpBySignature, (ask, bid, pricesHash, 0, 60, relay, topUp)),
                abi.encodeCall(escrow.withdrawBySignature, (_owner, stranger, 1e18, last, withdrawal))
            )
        );
        assertEq(_lease(_leaseNo(ask, bid)).fundedSeconds, 4260);
        assertEq(token.balanceOf(stranger), 1e18 - 8);
        assertEq(escrow.balanceOf(_relayer), 15);
    }

    /* ALL OR NOTHING */

    function test_call_that_fails_undoes_all_with_its_own_error() public {
        bytes memory open = _openCall();
        bytes[] memory calls = new bytes[](3);
        (calls[0], calls[1], calls[2]) = (_authorizationCall(), open, open);
        vm.expectRevert(abi.encodeWithSelector(IEscrowBase.LeaseExists.selector, _leaseNo(_ask(), _bid())));
        _multicall(calls);
        assertEq(escrow.balanceOf(_owner), 0);
        assertEq(token.balanceOf(_owner), AMOUNT);
        _assertState(_leaseNo(_ask(), _bid()), LeaseState.None);
        calls = _two(open, calls[0]); // in the wrong order
        _expect(IEscrowBase.InsufficientBalance.selector, 0, 2.5e18);
        _multicall(calls);
    }

    function test_nothing_calls_nothing() public {
        vm.recordLogs();
        _multicall(new bytes[](0));
        assertEq(vm.getRecordedLogs().length, 0);
    }

    function test_unknown_functions_revert() public {
        bytes[3] memory calls = [bytes(hex"deadbeef"), hex"de", ""];
        for (uint256 i = 0; i < 3; i++) {
            vm.expectRevert(Errors.FailedCall.selector);
            _multicall(_one(calls[i]));
        }
    }

    function test_multicalls_nest() public {
        bytes[] memory inner = _two(_authorizationCall(), _openCall());
        bytes[] memory outer = _one(abi.encodeCall(escrow.multicall, (inner)));
        _multicall(_one(abi.encodeCall(escrow.multicall, (outer))));
        _assertOpened();
        inner = _one(_openCall());
        vm.expectPartialRevert(IEscrowBase.LeaseExists.selector);
        _multicall(_one(abi.encodeCall(escrow.multicall, (inner))));
    }

    /* THE SENDER STAYS THE SENDER */

    function test_calls_are_the_senders_own() public {
        _expect(IEscrowBase.InvalidSignature.selector, _owner);
        _multicall(_one(abi.encodeCall(escrow.cancel, (_owner, Numbered.Orders, 1, false, ""))));
        _expect(IEscrowBase.InsufficientBalance.selector, 0, 1);
        _multicall(_one(abi.encodeCall(escrow.withdraw, (_relayer, 1))));
        bytes memory cancel = abi.encodeCall(escrow.cancel, (_owner, Numbered.Orders, 1, true, ""));
        vm.prank(_owner);
        escrow.multicall(_one(cancel));
        assertEq(escrow.saltsFrom(_owner, Numbered.Orders), 2);
    }

    function test_named_opener_and_party_are_the_sender_of_all() public {
        (Ask memory ask, Bid memory bid) = (_ask(), _bid());
        bid.opener = _relayer;
        bytes memory open = abi.encodeCall(escrow.open, (_match(ask, bid)));
        vm.expectRevert(abi.encodeWithSelector(IEscrowBase.NotOpener.selector, _relayer, stranger));
        vm.prank(stranger);
        escrow.multicall(_one(open));
        _multicall(_two(_authorizationCall(), open));
        bytes memory stop = abi.encodeCall(escrow.stop, (_key(_leaseNo(ask, bid)), true));
        _expect(IEscrowBase.NotAParty.selector, _relayer);
        _multicall(_one(stop));
        vm.prank(witness);
        escrow.multicall(_one(stop));
        assertTrue(_lease(_leaseNo(ask, bid)).again);
    }

    function test_purse_is_made_and_funded_in_one_transaction() public {
        address purse = escrow.purseOf(_owner, stranger, 1);
        bytes[] memory calls = _two(
            abi.encodeCall(escrow.createPurse, (stranger, 1, type(uint40).max, 0)),
            abi.encodeCall(escrow.fundPurse, (purse, 3e18))
        );
        vm.startPrank(_owner);
        token.approve(address(escrow), AMOUNT);
        escrow.deposit(AMOUNT);
        escrow.multicall(calls);
        assertEq(escrow.balanceOf(purse), 3e18);
    }

    /* PERMITS ARE THE SENDER'S */

    /// @dev The owner signed a permit, or approved the escrow for a deposit of its own: neither is a relayer's to use.
    function test_deposit_with_permit_never_takes_another_accounts_allowance() public {
        vm.prank(_owner);
        token.approve(address(escrow), AMOUNT);
        bytes32 typeHash =
            keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)");
        bytes32 structHash =
            keccak256(abi.encode(typeHash, _owner, address(escrow), AMOUNT, token.nonces(_owner), type(uint256).max));
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(_ownerKey, _digestOf(token.DOMAIN_SEPARATOR(), structHash));
        bytes memory call = abi.encodeCall(escrow.depositWithPermit, (AMOUNT, type(uint256).max, v, r, s));
        _expect(IEscrowBase.PermitFailed.selector, AMOUNT, 0);
        _multicall(_one(call));
        _expect(IEscrowBase.PermitFailed.selector, AMOUNT, 0);
        _multicall(_one(abi.encodeCall(escrow.multicall, (_one(call)))));
        assertEq(token.balanceOf(_owner), AMOUNT);
        assertEq(token.nonces(_owner), 0);

        token.transfer(_relayer, AMOUNT); // with an allowance of its own, it spends its own
        vm.prank(_relayer);
        token.approve(address(escrow), AMOUNT);
        _multicall(_one(call));
        assertEq(token.balanceOf(_owner), AMOUNT);
        assertEq(token.balanceOf(_relayer), 0);
        assertEq(escrow.balanceOf(_relayer), AMOUNT);
        assertEq(escrow.balanceOf(_owner), 0);

        vm.prank(_owner);
        escrow.multicall(_one(call));
        assertEq(escrow.balanceOf(_owner), AMOUNT);
    }
}
